"""Level 2: gradients of your own layers, losses and training steps, by the package `autograd`.

Needs ``pip install 'npdl[autodiff]'``. Functions are written in ``autograd.numpy``, which has the
functions of NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from npdl import objectives
from npdl._autograd import make_vjp
from npdl.layers.auto import AutoLayer, Lambda
from npdl.objectives.base import gradient_of, value_of

__all__ = ["AutoLayer", "Lambda", "grad", "value_and_grad"]


def value_and_grad(loss: Any) -> Callable[..., Any]:
    """Return a function that returns a loss and its gradients.

    Parameters
    ----------
    loss : str, Objective, or function
        What `Model.compile` takes as a loss, such as ``f(y_true, y_pred)``. Or any function of
        arrays that returns one number.

    Returns
    -------
    callable
        ``(model, x, y, sample_weight=None, mask=None)`` runs a training pass of a model, and
        returns the loss, with what regularizers add, and a list of gradients like `model.params`.
        They lie in `model.grads`, and the next pass overwrites them. Called with an array in place
        of the model, and further arguments, it returns ``loss(array, ...)`` and the gradient in the
        array; so too for a tuple, list or dict of arrays.

    Examples
    --------
    A custom training loop:

    >>> import autograd.numpy as anp
    >>> import numpy as np
    >>> import npdl
    >>> from npdl.autodiff import value_and_grad
    >>> model = npdl.Model([npdl.layers.Dense(1, n_in=3, activation="linear")])
    >>> model.compile("mse", npdl.optimizers.SGD(lr=0.1))
    >>> x, y = np.eye(3, dtype="float32"), np.ones((3, 1), "float32")
    >>> step = value_and_grad(lambda y_true, y_pred: anp.mean(anp.abs(y_true - y_pred) ** 3))
    >>> for _ in range(3):
    ...     value, grads = step(model, x, y)
    ...     model.optimizer.update(model.params, grads)
    """

    def run(first: Any, *args: Any, **kwargs: Any) -> tuple[float, Any]:
        if hasattr(first, "loss_backward") or hasattr(first, "layers"):
            return _of_model(objectives.get(loss), first, *args, **kwargs)
        if not callable(loss):
            raise TypeError(f"A model must come first. Received: {type(first).__name__}")
        pull_back, value = make_vjp(lambda x: loss(x, *args, **kwargs), first, "the function")
        return value, pull_back(1.0)

    return run


def grad(loss: Any) -> Callable[..., Any]:
    """Return a function that returns the gradients of a loss.

    Parameters
    ----------
    loss : str, Objective, or function
        As in `value_and_grad`.

    Returns
    -------
    callable
        With the arguments of what `value_and_grad` returns.
    """
    both = value_and_grad(loss)
    return lambda *args, **kwargs: both(*args, **kwargs)[1]


def _of_model(
    loss: Any, model: Any, x: Any, y: Any, sample_weight: Any = None, mask: Any = None
) -> tuple[float, list[Any]]:
    if not model.built:
        model.build((None, *x.shape[1:]))
    outputs = model.forward(x, train=True, mask=mask)
    value = float(value_of(loss, outputs, y, sample_weight, mask)) + model.penalty()
    model.backward(gradient_of(loss, outputs, y, sample_weight, mask))
    for layer in model.layers:
        layer.add_penalty_gradient()
    return value, list(model.grads)
