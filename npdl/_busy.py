"""Locks: a model that two threads train at once is an error, not a wrong result."""

from __future__ import annotations

import contextlib
import os
import weakref
from _thread import allocate_lock, get_ident
from collections.abc import Iterator
from typing import Any

#: The thread, and its process, that trains each model at the moment.
_owners: weakref.WeakKeyDictionary[Any, tuple[int, int]] = weakref.WeakKeyDictionary()
_lock = allocate_lock()


@contextlib.contextmanager
def trained_here(model: Any) -> Iterator[None]:
    """Let only this thread train a model within the block. Blocks may be nested.

    Raises
    ------
    RuntimeError
        If another thread is training it.
    """
    me = os.getpid(), get_ident()
    with _lock:
        owner = _owners.get(model)
        if owner is not None and owner != me and owner[0] == me[0]:
            raise RuntimeError(
                "Another thread is training this model. Several threads may predict with one "
                "model, but only one at a time can train it."
            )
        outermost = owner != me
        _owners[model] = me
    try:
        yield
    finally:
        if outermost:
            with _lock:
                _owners.pop(model, None)


if hasattr(os, "register_at_fork"):  # another thread may hold it while this one forks
    os.register_at_fork(after_in_child=lambda: globals().update(_lock=allocate_lock()))
