"""Embedding: one row of a table for each integer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import initializations, regularizers
from npdl._checks import error_message, float_array
from npdl._ext import kernels
from npdl._registry import constructor_arguments, to_json_type
from npdl.layers.base import Layer, ParameterView, Shape, shape_matches


class Embedding(Layer):
    """Look up a row of a table for each integer: (N, T) gives (N, T, n_out).

    Parameters
    ----------
    embed_words : array_like, shape (input_size, n_out), optional
        The table to start from; it is copied. Drawn by `init` if not given.
    static : bool, optional
        Whether the table is frozen. By default a given table is, and a random one is trained.
    input_size, n_out : int, optional
        Number of rows and columns of a random table.
    nb_batch, nb_seq : int, optional
        Sizes of the input, if known; other sizes are accepted too.
    init : str or Initializer
    regularizer : str or Regularizer, optional, keyword-only
        Penalty on all rows of the table, if it is trained.
    mask_zero : bool, keyword-only
        Whether 0 is padding: the layer then makes a mask of the steps with other numbers.

    Attributes
    ----------
    embed_words : ndarray, shape (input_size, n_out)
        The table, once the layer is connected.
    """

    color = "#6b4fa0"

    embed_words = ParameterView("embed_words")
    dembed_words = ParameterView("embed_words", "grad")

    def __init__(
        self,
        embed_words: ArrayLike | None = None,
        static: bool | None = None,
        input_size: int | None = None,
        n_out: int | None = None,
        nb_batch: int | None = None,
        nb_seq: int | None = None,
        init: Any = "uniform",
        *,
        regularizer: Any = None,
        mask_zero: bool = False,
    ) -> None:
        self.mask_zero = bool(mask_zero)
        self.input_size = self._optional_int("input_size", input_size)
        self.n_out = self._optional_int("n_out", n_out)
        self._given = None if embed_words is None else float_array(embed_words).copy()
        if self._given is None:
            if self.input_size is None or self.n_out is None:
                rule = "`input_size` and `n_out` must be given where `embed_words` is not"
                raise self._error(rule, input_size=input_size, n_out=n_out)
            self._table_shape: tuple[int, ...] = self.input_size, self.n_out
        else:
            self._table_shape = self._given.shape
            if not shape_matches(
                self._given.shape, [size or "any" for size in (self.input_size, self.n_out)]
            ):
                rule = "`embed_words` must have shape (input_size, n_out)"
                raise self._error(rule, shape=self._given.shape, input_size=input_size, n_out=n_out)
        self.static = static
        self.nb_batch = self._optional_int("nb_batch", nb_batch)
        self.nb_seq = self._optional_int("nb_seq", nb_seq)
        self.init = initializations.get(init)
        self.regularizer = regularizers.get(regularizer)

    @classmethod
    def _positional(
        cls, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``Embedding(1000, 64)`` is ``Embedding(input_size=1000, n_out=64)``."""
        whole = [hasattr(a, "__index__") and not isinstance(a, bool | np.ndarray) for a in args]
        if not args or not whole[0]:
            return args, kwargs
        if len(args) > 2 or not all(whole):
            rule = f"{cls.__name__} takes only `input_size` and `n_out` without names"
            raise TypeError(error_message(rule, arguments=args))
        given = dict(zip(("input_size", "n_out"), args))
        if twice := given.keys() & kwargs.keys():
            raise TypeError(f"{cls.__name__}() got {', '.join(sorted(twice))} twice.")
        return (), {**given, **kwargs}

    @property
    def makes_mask(self) -> bool:  # type: ignore[override]
        """Whether a mask is made of the numbers, see `mask_zero`."""
        return self.mask_zero

    def make_mask(self, *inputs: NDArray) -> NDArray | None:
        """Return 1 where a step holds another number than 0, for input of shape (N, T)."""
        index = np.asarray(inputs[0])
        if index.ndim != 2:
            return None
        mask = np.empty(index.shape, np.uint8)
        kernels().mark_steps(index, mask)
        return mask

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON types, `embed_words` as it was given."""
        return {"embed_words": to_json_type(self._given), **self._options()}

    def saved_config(self) -> dict[str, Any]:
        """The configuration with only the sizes of a given table, whose values are in the file."""
        if self._given is None:
            return self.to_json()
        rows, columns = self._table_shape
        static = self.static is None or bool(self.static)
        sizes = {"input_size": rows, "n_out": columns, "static": static}
        return {"embed_words": None, **self._options(), **sizes}

    def _options(self) -> dict[str, Any]:
        names = [n for n in constructor_arguments(type(self)) if n != "embed_words"]
        return {name: to_json_type(getattr(self, name)) for name in names}

    @property
    def in_shape(self) -> Shape | None:
        """(None, nb_seq): the layer may always be the first of a network."""
        return None, self.nb_seq

    def build(self, in_shape: Shape) -> Shape:
        """Create the table."""
        given = self._given
        table = self.init(self._table_shape) if given is None else given
        frozen = given is not None if self.static is None else self.static
        self.add_parameter("embed_words", table, trainable=not frozen)
        return (*in_shape, table.shape[1])

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the row of the table for each integer.

        Parameters
        ----------
        input : array_like of int, shape (N, ...)
            Row numbers in [0, input_size).
        train : bool
            Whether to keep what `backward` needs.

        Returns
        -------
        ndarray, shape (N, ..., n_out)
        """
        if self.out_shape is None:
            raise self._not_built()
        table = self._parameters_by_name["embed_words"].value
        index = np.asarray(input)
        if index.dtype.kind not in "iu":
            rule = "`input` must hold integers"
            raise TypeError(error_message(rule, layer=self.name, dtype=index.dtype.name))
        if index.size == 0 or index.ndim == 0:
            raise self._error(
                "`input` must have shape (N, ...) and not be empty", shape=index.shape
            )
        rows = index.astype(np.int64, order="C", copy=train)
        # For the few numbers of a sample this is much faster than `min` and `max`.
        if not 0 <= rows.item(rows.argmin()) <= rows.item(rows.argmax()) < len(table):
            outside = (index < 0) | (index >= len(table))
            rule = f"`input` must lie in [0, {len(table)})"
            raise self._error(rule, index=index[outside][0].item())
        shape = *index.shape, table.shape[1]
        y = self._buffer("y", shape, table.dtype) if train else np.empty(shape, table.dtype)
        kernels().take_rows(table, rows, y)
        if train:
            self._cache = rows, y.shape
        return y

    def backward(self, pre_grad: ArrayLike) -> None:
        """Fill `dembed_words` unless the table is frozen; integers have no gradient.

        A row that was looked up several times gets the sum of its gradients.
        """
        rows, y_shape = self._saved_for_backward()
        dy = self._checked_array(pre_grad, y_shape, "pre_grad")
        if self.dembed_words is not None:
            width = y_shape[-1]
            kernels().embedding_backward(rows.reshape(-1), dy.reshape(-1, width), self.dembed_words)
