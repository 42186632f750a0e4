"""Attention: each step of a sequence reads from the steps of another one, or of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import initializations, regularizers
from npdl._checks import check_choice, check_int
from npdl._ext import kernels
from npdl._ext.activation_np import LINEAR
from npdl.layers._fusing import add_arrays
from npdl.layers.base import Layer, ParameterView, Shape

_IDENTITY = (LINEAR, 1.0)

Masks = tuple[NDArray | None, NDArray | None]


class _Reading(Layer):
    """Base of the attention layers: their inputs, masks and gradients."""

    color = "#2f6f8f"

    causal: bool

    def build(self, *in_shapes: Any, **kwargs: Any) -> Shape:
        """Create the parameters for a query, a value and a key, or the first one or two of them."""
        shapes = [tuple(shape) for shape in self._all_three(in_shapes)]
        for shape in shapes:
            self._check_rank(shape, 3)
        query, value, key = shapes
        if None not in (value[1], key[1]) and value[1] != key[1]:
            raise self._error("The key must have a step for each of the value", shapes=in_shapes)
        sizes = [self._axis_size(shape, 2, "size") for shape in shapes]
        return query[0], query[1], self._build(*sizes)

    def _build(self, query: int, value: int, key: int) -> int:
        """Create the parameters for inputs of these sizes, and return that of the output."""
        raise NotImplementedError

    def _all_three(self, inputs: Sequence[Any]) -> tuple[Any, Any, Any]:
        """Query, value and key."""
        if not 1 <= len(inputs) <= 3:
            rule = f"{type(self).__name__} takes a query, a value and a key"
            raise self._error(rule, inputs=len(inputs))
        query, value = inputs[0], inputs[min(1, len(inputs) - 1)]
        return query, value, inputs[-1]

    def _arrays(self, inputs: Sequence[ArrayLike]) -> list[NDArray]:
        """The inputs, checked; as many as there are."""
        if self.out_shape is None or self._in_shapes is None:
            raise self._not_built()
        if len(inputs) != len(self._in_shapes):
            rule = f"The inputs must be {len(self._in_shapes)}, as the layer was built for"
            raise self._error(rule, inputs=len(inputs))
        names = ("query", "value", "key")
        xs = [
            self._checked_array(x, ("N", "T", shape[2]), names[i] if len(inputs) > 1 else "input")
            for i, (x, shape) in enumerate(zip(inputs, self._in_shapes))
        ]
        dtype = np.result_type(*xs)
        xs = [np.asarray(x, dtype) for x in xs]
        if len({len(x) for x in xs}) > 1 or xs[-1].shape[:2] != xs[min(1, len(xs) - 1)].shape[:2]:
            rule = "The inputs must have as many samples, and the key a step for each of the value"
            raise self._error(rule, shapes=[x.shape for x in xs])
        return xs

    def _masks(self, mask: Any, xs: Sequence[NDArray]) -> Masks:
        """The masks of the queries that attend to something, and of the keys."""
        given = (mask,) if len(xs) == 1 else (None,) * len(xs) if mask is None else tuple(mask)
        if len(given) != len(xs):
            raise self._error("There must be a mask, or None, for each input", masks=len(given))
        real = [
            None if one is None else self._checked_array(one, x.shape[:2], "mask") != 0
            for one, x in zip(given, xs)
        ]
        rows, value, key = self._all_three(real)
        keys = value if key is None or key is value else key if value is None else key & value
        if keys is not None:
            # A query that may attend to no key counts as masked.
            seen = np.logical_or.accumulate(keys, axis=1)
            steps = np.arange(xs[0].shape[1]) if self.causal else np.full(xs[0].shape[1], 2**31)
            some = seen[:, np.minimum(steps, keys.shape[1] - 1)]
            rows = some if rows is None else rows & some
        return _bytes(rows), _bytes(keys)

    def _shared(self, grads: list[NDArray | None], n_inputs: int) -> Any:
        """The gradients in the inputs, added where one input is several of query, value and key."""
        if n_inputs == 3 or grads[0] is None:
            return tuple(grads[:n_inputs]) if n_inputs > 1 else grads[0]
        query, value, key = grads
        add_arrays(value, key, value)  # type: ignore[arg-type]
        if n_inputs == 2:
            return query, value
        add_arrays(query, value, query)  # type: ignore[arg-type]
        return query

    def weights(self, *inputs: ArrayLike, mask: Any = None) -> NDArray:
        """Return how much of each step of the value goes into each step of the output.

        Parameters
        ----------
        *inputs, mask
            As in `forward`.

        Returns
        -------
        ndarray, shape (N, heads, TQ, TK)
            They sum to 1 over the last axis; 0 where a query is masked or has no key.
        """
        xs = self._arrays(inputs)
        masks = self._masks(mask, xs)
        q, _, k = self._heads(xs, masks, train=False)
        n, steps, heads, _ = k.shape
        unit = np.eye(steps, dtype=q.dtype)[None, :, None]
        unit = np.ascontiguousarray(np.broadcast_to(unit, (n, steps, heads, steps)))
        y = np.empty((*q.shape[:3], steps), q.dtype)
        kernels().attention_forward(q, k, unit, *masks, *self._score(), self.causal, y)
        return y.transpose(0, 2, 1, 3)

    def _heads(self, xs: list[NDArray], masks: Masks, train: bool) -> tuple[NDArray, ...]:
        """Query, value and key as the kernel takes them, shape (N, T, heads, size)."""
        raise NotImplementedError

    def _score(self) -> tuple[NDArray | None, float]:
        """The weights of the additive score, and the factor of all scores."""
        raise NotImplementedError


class Attention(_Reading):
    """Attention by the similarity of steps, without projections.

    Called on a query (N, TQ, D), a value (N, TK, E) and a key (N, TK, D), it gives (N, TQ, E): for
    each step of the query the mean of the steps of the value, weighted by the softmax of the
    scores of their keys. If no key is given, the value is also the key; with one input a sequence
    attends to itself.

    A mask of the key or the value removes steps from the mean. Masked steps of the query, and those
    that have no key left, give 0. The mask of the query is passed on. The
    content of masked steps has no effect, NaN included.

    Parameters
    ----------
    score : {"dot", "scaled_dot", "additive"}
        ``q · k`` (Luong et al. 2015); ``q · k / sqrt(D)`` (Vaswani et al. 2017); or
        ``scale · tanh(q + k)`` with a learned vector `scale`, shape (D,) (Bahdanau et al. 2015).
    causal : bool, keyword-only
        Whether a step of the query attends to no later step than its own.
    init : str or Initializer, keyword-only
        Initializer of `scale`.
    """

    scale = ParameterView("scale")
    dscale = ParameterView("scale", "grad")

    def __init__(
        self, score: str = "dot", *, causal: bool = False, init: Any = "glorot_uniform"
    ) -> None:
        self.score = check_choice("score", score, ("dot", "scaled_dot", "additive"))
        self.causal = bool(causal)
        self.init = initializations.get(init)

    def _build(self, query: int, value: int, key: int) -> int:
        if query != key:
            rule = "The steps of query and key must have the same size"
            raise self._error(rule, query=query, key=key)
        if self.score == "additive":
            self.add_parameter("scale", self.init((query,)))
        return value

    def _heads(self, xs: list[NDArray], masks: Masks, train: bool) -> tuple[NDArray, ...]:
        return tuple(x[:, :, None] for x in self._all_three(xs))

    def _score(self) -> tuple[NDArray | None, float]:
        if self.score == "additive":
            return self._parameters_by_name["scale"].value[None], 1.0
        if self.score == "dot" or self._in_shapes is None:
            return None, 1.0
        return None, float(self._axis_size(self._in_shapes[0], 2, "size")) ** -0.5

    def forward(self, *inputs: ArrayLike, train: bool = True, mask: Any = None) -> NDArray:
        """Return what each step of the query reads.

        Parameters
        ----------
        *inputs : array_like, shape (N, T, size)
            Query, value and key; the key, or value and key, may be left out.
        train : bool
            Whether to keep what `backward` needs.
        mask : array_like, shape (N, T), or tuple of these or None, optional
            0 for padding; of several inputs a tuple.

        Returns
        -------
        ndarray, shape (N, TQ, E)
        """
        xs = self._arrays(inputs)
        masks = self._masks(mask, xs)
        q, v, k = self._heads(xs, masks, train)
        shape = *q.shape[:2], v.shape[3]
        y = self._buffer("y", shape, q.dtype) if train else np.empty(shape, q.dtype)
        kernels().attention_forward(q, k, v, *masks, *self._score(), self.causal, y[:, :, None])
        if train:
            self._cache = xs, masks, y.shape
        return y

    def backward(self, pre_grad: ArrayLike) -> Any:
        """Return the gradients in the inputs, and fill `dscale`.

        Parameters
        ----------
        pre_grad : array_like, shape (N, TQ, E)
        """
        xs, masks, shape = self._saved_for_backward()
        dy = self._checked_array(pre_grad, shape, "pre_grad", xs[0].dtype)
        all_three = self._all_three(xs)
        grads: list[NDArray | None] = [None] * 3
        if self.need_input_grad:
            grads = [self._buffer(f"dx{i}", x.shape, x.dtype) for i, x in enumerate(all_three)]
        dq, dv, dk = (None if grad is None else grad[:, :, None] for grad in grads)
        dscale = self.dscale if self.score == "additive" else None
        q, v, k = self._heads(xs, masks, True)
        kernels().attention_backward(
            *(q, k, v, *masks, *self._score(), self.causal, dy[:, :, None], dq, dk, dv),
            None if dscale is None else dscale[None],
        )
        return self._shared(grads, len(xs))


class MultiHeadAttention(_Reading):
    """Attention of several heads, each on its own projections (Vaswani et al. 2017).

    Called on a query (N, TQ, size), a value (N, TK, size) and a key (N, TK, size), it gives
    (N, TQ, n_out). Query, key and value are each projected to ``heads`` sequences. In each head the
    queries attend to the keys by ``q · k / sqrt(key_size)``, and the results of all heads are
    projected to the output. If no key is given, the value is also the key; with one input a
    sequence attends to itself.

    Masks work as in `Attention`: steps that are masked, or that have no key left, give 0.

    Parameters
    ----------
    heads : int
    key_size : int
        Size of the queries and keys of a head.
    value_size : int, optional, keyword-only
        Size of the values of a head, by default `key_size`.
    n_out : int, optional, keyword-only
        Size of a step of the output, by default that of the query.
    causal : bool, keyword-only
        Whether a step of the query attends to no later step than its own.
    use_bias : bool, keyword-only
        Whether the projections have biases.
    init : str or Initializer, keyword-only
        Initializer of the weights. Biases start at 0.
    regularizer : str or Regularizer, optional, keyword-only
        Penalty on the weights.

    Notes
    -----
    The parameters are ``query_W``, ``query_b``, ``key_W``, ``key_b``, ``value_W``, ``value_b``,
    ``output_W`` and ``output_b``; a weight matrix has a row for each number of its input, and the
    columns of one head side by side.
    """

    def __init__(
        self,
        heads: int,
        key_size: int,
        *,
        value_size: int | None = None,
        n_out: int | None = None,
        causal: bool = False,
        use_bias: bool = True,
        init: Any = "glorot_uniform",
        regularizer: Any = None,
    ) -> None:
        self.heads = check_int("heads", heads, layer=self.name)
        self.key_size = check_int("key_size", key_size, layer=self.name)
        self.value_size = self._optional_int("value_size", value_size)
        self.n_out = self._optional_int("n_out", n_out)
        self.causal = bool(causal)
        self.use_bias = bool(use_bias)
        self.init = initializations.get(init)
        self.regularizer = regularizers.get(regularizer)

    def _build(self, query: int, value: int, key: int) -> int:
        keys, values = self.heads * self.key_size, self.heads * (self.value_size or self.key_size)
        n_out = self.n_out or query
        for name, shape in [
            ("query", (query, keys)),
            ("key", (key, keys)),
            ("value", (value, values)),
            ("output", (values, n_out)),
        ]:
            self.add_parameter(f"{name}_W", self.init(shape))
            if self.use_bias:
                self.add_parameter(f"{name}_b", np.zeros(shape[1]))
        return n_out

    def _score(self) -> tuple[NDArray | None, float]:
        return None, float(self.key_size) ** -0.5

    def _heads(self, xs: list[NDArray], masks: Masks, train: bool) -> tuple[NDArray, ...]:
        names = ("query", "value", "key")
        made = (self._projected(n, x, train) for n, x in zip(names, self._all_three(xs)))
        return tuple(y.reshape(*y.shape[:2], self.heads, -1) for y in made)

    def _projected(self, name: str, x: NDArray, train: bool) -> NDArray:
        own = self._parameters_by_name
        w, b = own[f"{name}_W"].value, own.get(f"{name}_b")
        shape = *x.shape[:2], w.shape[1]
        y = self._buffer(name, shape, w.dtype) if train else np.empty(shape, w.dtype)
        bias = None if b is None else b.value
        kernels().dense_forward(_rows(x), w, bias, _rows(y), _IDENTITY)
        return y

    def _projected_back(self, name: str, x: NDArray, dy: NDArray, dx: NDArray | None) -> None:
        """Fill dx, and the gradients of a projection."""
        own = self._parameters_by_name
        w, b = own[f"{name}_W"], own.get(f"{name}_b")
        flat, dx = _rows(dy), None if dx is None else _rows(dx)
        db = None if b is None else b.grad
        kernels().dense_backward(_rows(x), w.value, flat, flat, dx, w.grad, db, _IDENTITY)

    def forward(self, *inputs: ArrayLike, train: bool = True, mask: Any = None) -> NDArray:
        """Return what each step of the query reads.

        Parameters
        ----------
        *inputs : array_like, shape (N, T, size)
            Query, value and key; the key, or value and key, may be left out.
        train : bool
            Whether to keep what `backward` needs.
        mask : array_like, shape (N, T), or tuple of these or None, optional
            0 for padding; of several inputs a tuple.

        Returns
        -------
        ndarray, shape (N, TQ, n_out)
        """
        xs = self._arrays(inputs)
        masks = self._masks(mask, xs)
        xs = self._cleared(xs, masks, train)
        q, v, k = self._heads(xs, masks, train)
        shape = *q.shape[:3], v.shape[3]
        read = self._buffer("read", shape, q.dtype) if train else np.empty(shape, q.dtype)
        kernels().attention_forward(q, k, v, *masks, *self._score(), self.causal, read)
        y = self._projected("output", read.reshape(*shape[:2], -1), train)
        _clear(y, masks[0])
        if train:
            self._cache = xs, masks, (q, v, k), read, y.shape
        return y

    def backward(self, pre_grad: ArrayLike) -> Any:
        """Return the gradients in the inputs, and fill those of the projections.

        Parameters
        ----------
        pre_grad : array_like, shape (N, TQ, n_out)
        """
        xs, masks, (q, v, k), read, shape = self._saved_for_backward()
        dtype = q.dtype
        dy = self._checked_array(pre_grad, shape, "pre_grad", dtype)
        if masks[0] is not None:
            dy = _copied(dy, self._buffer("dy", shape, dtype))
            _clear(dy, masks[0])
        dread, dq, dv, dk = (
            self._buffer(f"d{key}", array.shape, dtype)
            for key, array in [("read", read), ("q", q), ("v", v), ("k", k)]
        )
        merged = *read.shape[:2], -1
        self._projected_back("output", read.reshape(merged), dy, dread.reshape(merged))
        score = self._score()
        kernels().attention_backward(q, k, v, *masks, *score, self.causal, dread, dq, dk, dv, None)
        grads: list[NDArray | None] = [None] * 3
        all_three = self._all_three(xs)
        if self.need_input_grad:
            grads = [self._buffer(f"dx{i}", x.shape, dtype) for i, x in enumerate(all_three)]
        for name, x, dhead, dx in zip(("query", "value", "key"), all_three, (dq, dv, dk), grads):
            self._projected_back(name, x, dhead.reshape(*x.shape[:2], -1), dx)
        return self._shared(grads, len(xs))

    def _cleared(self, xs: list[NDArray], masks: Masks, train: bool) -> list[NDArray]:
        """The inputs with 0 in the steps that are not used, which may hold NaN."""
        made = []
        for i, x in enumerate(xs):
            # With one input a step counts where it is a query or a key.
            mask = masks[min(i, 1)]
            if len(xs) == 1 and mask is not None and masks[1] is not None:
                mask = mask | masks[1]
            if mask is not None:
                y = self._buffer(f"x{i}", x.shape, x.dtype) if train else np.empty_like(x)
                x = _copied(x, y)
                _clear(x, mask)
            made.append(x)
        return made


def _bytes(mask: NDArray | None) -> NDArray | None:
    return None if mask is None else mask.astype(np.uint8, order="C")


def _rows(x: NDArray) -> NDArray:
    """The steps of all samples, one below the other; a view."""
    return x.reshape(-1, x.shape[-1])


def _copied(x: NDArray, y: NDArray) -> NDArray:
    np.copyto(y, x)
    return y


def _clear(x: NDArray, mask: NDArray | None) -> None:
    """x = 0 where a mask is 0, in place."""
    if mask is not None:
        x[mask == 0] = 0
