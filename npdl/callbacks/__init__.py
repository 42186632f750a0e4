"""Callbacks: what `Model.fit` calls on its way, with the hooks and names of Keras."""

from npdl.callbacks.base import Callback, CallbackList
from npdl.callbacks.monitor import Monitor

__all__ = ["Callback", "CallbackList", "Monitor"]
