"""Level 2: a snapshot of a model that only predicts."""

from __future__ import annotations

import contextlib
import copy
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl import _dtype, _ext
from npdl._checks import check_int, error_message
from npdl._dtype import get_dtype
from npdl._ext import get_num_threads, get_precision, kernels
from npdl._files import StrPath
from npdl.batch import Batch, as_batch, is_stream
from npdl.layers._convolving import Convolving
from npdl.layers._folding import Folded
from npdl.layers._padding import without_padding
from npdl.layers.embedding import Embedding
from npdl.layers.owning import keeps_its_arrays
from npdl.layers.plan import Masks, Plan
from npdl.layers.recurrent import Recurrent, is_stateful
from npdl.layers.step import Step
from npdl.layers.tree import every_layer
from npdl.program import Program, layers_of, taken
from npdl.trainer import Trainer
from npdl.training import own_arrays, predict_step

#: Number of input shapes that a predictor prepares; each has its own packed weights.
ROUTES = 8
#: Bytes of a layer's arrays, per thread, that stay in the cache until the next layer reads them.
CACHE = 1 << 21
#: Bytes of the arrays of samples that a thread runs through all layers by itself.
OWN = 1 << 20
#: Bytes of weights that are not read again for each few images.
LARGE = 1 << 20
#: The least number of images at a time.
FEWEST = 8
#: The parts of a model that a snapshot needs; no loss, no optimizer.
_KEPT = ("name", "layers", "_names", "_plan", "inputs", "outputs")


class Predictor:
    """A model as it was at one moment, for inference: ``predictor = model.predictor()``.

    It is called like a function, and returns the same bits as ``model.predict`` did at that moment.
    It has its own weights, without gradients and without an optimizer, so the model may be trained
    further. Several threads may call it at once. It can be pickled and copied.

    Parameters
    ----------
    model : Model
        A built model. Its weights are copied.
    batch_size : int
        The most samples at a time; bounds the memory needed.

    Notes
    -----
    Dropout and noise do nothing at prediction. Batch normalization behind a convolution is part
    of its weights, as in ``model.predict``.

    Large images run through all layers a few at a time, so that the output of a layer is still in
    the cache when the next one reads it; if the layers have small weights, each thread takes images
    of its own. Layers behind them take the whole batch if their weights are large.

    With stateful recurrent layers, each call continues where the last one ended, from the state
    that the model had. Then only one thread may call it.

    Examples
    --------
    >>> import numpy as np, npdl
    >>> model = npdl.Model([npdl.layers.Dense(3, n_in=2), npdl.layers.Softmax(2)])
    >>> model.build()
    >>> predictor = model.predictor()
    >>> predictor(np.zeros((1, 2))).shape
    (1, 2)
    """

    def __init__(self, model: Trainer, batch_size: int = 256) -> None:
        self._batch_size = check_int("batch_size", batch_size)
        self._model = _snapshot(model)
        self.plan = self._model.require_plan("predictor")
        self._names = self._model.data_names
        _fold(self.plan)
        stateful = any(is_stateful(layer) for layer in every_layer(self.plan.layers))
        #: Whether every call runs the plan.
        self._walks = stateful
        self._image_bytes = 0 if self._walks else _sample_bytes(self.plan, 4)
        self._routes = _Routes(self.plan)
        #: The program of arrays that come one after the other, called with little Python; it
        #: returns None for others. And the last shape that it did not take.
        self._shortcut: Callable[[NDArray], NDArray | None] = _no_shortcut
        self._last: Any = None
        #: Of a sample that a thread runs by itself, an image or else a sequence; and of several.
        self._own_bytes, self._own_least = self._image_bytes, OWN
        #: Whether the layers of images, or all layers of sequences, have small weights.
        self._light = _weight_bytes(self.plan.steps[: _end_of_images(self.plan)]) < LARGE
        if not (self._image_bytes or self._walks):
            self._own_bytes, self._own_least = _sample_bytes(self.plan, 3), OWN // 4
            self._light = _weight_bytes(self.plan.steps) < LARGE * (2 - _convolves(self.plan))
        #: Of the layers of images, and of those behind them; None before they are needed.
        self._halves: tuple[_Routes, ...] | None = None

    @property
    def input_shape(self) -> Any:
        """The shape of the input, None for open sizes; a list where there are several."""
        return self._model.input_shape

    @property
    def output_shape(self) -> Any:
        """The shape of the output, None for open sizes; a list where there are several."""
        return self._model.output_shape

    def __repr__(self) -> str:
        return f"<Predictor {self.input_shape} -> {self.output_shape}>"

    def __call__(self, X: Any, mask: Any = None) -> Any:
        """Return the outputs for all samples.

        Parameters
        ----------
        X : array_like of shape (N, ...)
            As `Model.predict` takes it: for several inputs a list, or a dict by name.
        mask : array_like of shape (N, T), optional
            0 for steps that are padding. For several inputs a list or a dict by name, None for an
            input without one.

        Returns
        -------
        ndarray, or list or dict of ndarray
            In the form in which the outputs were passed to `Model`.
        """
        if mask is None and type(X) is np.ndarray:  # the common case, and the fastest
            y = self._shortcut(X)
            if y is not None:
                return y
            key = X.shape, X.dtype.char
            watched = _watched() if key == self._last else {}
            route = self._routes.by_shape().get(key)
            if route is not None and route.whole is not None:
                dtype = route.whole.dtypes[0]
                ys = route.whole([X if X.dtype is dtype else np.asarray(X, dtype, "C")])
                if ys is not None:
                    y = self._model.packed(ys, self._names.outputs)
                    if X.dtype is dtype and y is ys[0] and watched:
                        self._shortcut = route.whole.shortcut(X, watched) or _no_shortcut
                    self._last = key
                    return y
        batch = self._batch(X, mask)
        outputs = _joined(batch, self._batch_size, self._outputs)
        return self._model.packed(outputs, self._names.outputs)

    def _outputs(self, batch: Batch) -> list[NDArray]:
        """The outputs of one batch, by the routes for its shapes if there are any."""
        if self._walks:
            return predict_step(self.plan, batch)
        masks = _as_bytes(batch.mask)
        if masks or self.plan.makes_masks:
            return own_arrays(self._routes.outputs(batch.x, masks), batch)
        size, few = self._at_a_time(batch.samples), self._of_a_thread(batch.samples)
        halves = self._two_halves() if size < batch.samples else ()
        routes = halves[0] if halves else self._routes
        outputs = routes.in_parts(batch, few) if few else None
        if outputs is None:
            outputs = _joined(batch, size, lambda part: routes.outputs(part.x))
        return halves[1].outputs(outputs) if halves else own_arrays(outputs, batch)

    def _at_a_time(self, n: int) -> int:
        """The most of n samples that run through the layers of images together."""
        if not self._image_bytes or not kernels().ready:  # the twins' bits depend on the size
            return n
        return max(FEWEST, CACHE * get_num_threads() // self._image_bytes)

    def _of_a_thread(self, n: int) -> int:
        """How many of n samples a thread runs through layers by itself; 0 if all share them.

        It pays if there is enough for every thread, and if weights stay in the cache of a core.
        """
        share = n // (2 * get_num_threads())
        own = share * self._own_bytes >= self._own_least and self._light and kernels().ready
        return max(1, min(share, self._own_least // self._own_bytes)) if own else 0

    def _two_halves(self) -> tuple[_Routes, ...]:
        """The layers of images and those behind them; empty if these have small weights.

        Large ones are read once for all images of a batch.
        """
        if self._halves is None:
            cut = _end_of_images(self.plan)
            plans = self.plan.cut(cut) if _weight_bytes(self.plan.steps[cut:]) >= LARGE else ()
            for plan in plans:
                _fold(plan)
            self._halves = tuple(map(_Routes, plans))
        return self._halves

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_routes": None, "_halves": None, "_shortcut": _no_shortcut}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        _fold(self.plan)
        self._routes = _Routes(self.plan)

    def _batch(self, X: Any, mask: Any) -> Batch:
        """The inputs and their masks as arrays, checked."""
        if is_stream(X):
            rule = "A predictor takes arrays; call it for each batch of an iterable"
            raise TypeError(error_message(rule, X=type(X).__name__))
        if mask is not None:
            X = self._masked(X, mask)
        return as_batch(X, names=self._names)

    def _masked(self, X: Any, mask: Any) -> Any:
        """Inputs with their masks, in the form that `as_batch` takes."""
        names = list(self._names.inputs)
        if len(names) == 1:
            return {"input": X, "mask": mask}
        inputs = self._model.arrays_for(X, names, "X")
        masks = self._model.arrays_for(mask, names, "mask")
        return [x if one is None else {"input": x, "mask": one} for x, one in zip(inputs, masks)]

    def reset_states(self) -> None:
        """Let stateful recurrent layers begin from zero at the next call."""
        for layer in every_layer(self.plan.layers):
            if is_stateful(layer):
                layer.reset_states()

    def save(self, path: StrPath) -> None:
        """Write layers and weights to a file: ``npdl.load_model(path).predictor()`` reads it.

        Parameters
        ----------
        path : path
            The exact name of the file; ``.safetensors`` is the usual suffix.
        """
        self._model.save(path)


class Route:
    """A plan for inputs of certain shapes: programs, and the steps that they leave.

    Parameters
    ----------
    plan : Plan
    inputs : sequence of ndarray
        On which it is tried.
    masks : sequence of ndarray or None
        Those of the inputs; empty if none has one.
    """

    def __init__(self, plan: Plan, inputs: Sequence[NDArray], masks: Masks = ()) -> None:
        self._plan = plan
        self._parts: list[Program | Step] = []
        #: The slots that no later part reads.
        self._free: list[list[int]] = []
        values = plan.values_of(inputs, masks)
        first = 0
        while first < len(plan.predicting):
            program = Program.of(plan, first, values)
            steps = [plan.predicting[first]] if program is None else program.steps
            self._parts.append(steps[0] if program is None else program)
            self._free.append([slot for step in steps for slot in step.free])
            self._do(len(self._parts) - 1, values)
            first += len(steps)
        #: The outputs for these inputs, until they are used.
        self.made: list[NDArray] | None = self._outputs(values)
        #: The program of a model that needs only one, with the dtypes that it takes.
        self.whole: Program | None = None
        if len(self._parts) == 1 and isinstance(self._parts[0], Program):
            program = self._parts[0]
            if program.sources == tuple(range(len(inputs))) and program.targets == plan.out_slots:
                self.whole = program

    def _do(self, number: int, values: list[Any]) -> bool:
        part = self._parts[number]
        if isinstance(part, Step):
            self._plan.run_step(part, values)
            return True
        outputs = part(taken(part, values))
        if outputs is None:
            return False
        for slot, y in zip(part.targets, outputs):
            values[slot] = y
        for slot in self._free[number]:
            values[slot] = None
        return True

    def __call__(self, inputs: Sequence[NDArray], masks: Masks = ()) -> list[NDArray] | None:
        """The outputs; None if it was made for inputs of other shapes or dtypes."""
        values = self._plan.values_of(inputs, masks)
        for number in range(len(self._parts)):
            if not self._do(number, values):
                return None
        return self._outputs(values)

    def _outputs(self, values: Sequence[Any]) -> list[NDArray]:
        return [np.asarray(values[slot]) for slot in self._plan.out_slots]


class _Routes:
    """The prepared routes of a plan, by the shapes of the inputs."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        #: A setting and its routes; one attribute, as another thread may have another setting.
        self._prepared: tuple[Any, dict[Any, Route]] = (None, {})

    def by_shape(self) -> dict[Any, Route]:
        """The routes for the setting of the moment; those for another one are dropped."""
        setting, prepared = _setting(), self._prepared
        if prepared[0] != setting:
            prepared = self._prepared = (setting, {})
        return prepared[1]

    def outputs(self, xs: Sequence[NDArray], masks: Masks = ()) -> list[NDArray]:
        """The outputs of the plan; by a new route if there are few."""
        routes = self.by_shape()
        key: Any = tuple((x.shape, x.dtype.char) for x in xs)
        key = key[0] if len(key) == 1 and not masks else key
        if masks:
            xs = [without_padding(x, mask) for x, mask in zip(xs, masks)]
            key = key, tuple(mask is None for mask in masks)
        route = routes.get(key)
        outputs = None if route is None else route(xs, masks)
        if route is None and len(routes) < ROUTES:
            route = Route(self._plan, xs, masks)
            outputs, route.made = route.made, None
            routes[key] = route
        return self._plan.forward(xs, False, masks)[0] if outputs is None else outputs

    def in_parts(self, batch: Batch, size: int) -> list[NDArray] | None:
        """The outputs of a batch, of which each thread runs so many samples through all layers.

        None if that takes more than one program.
        """
        parts = -(-batch.samples // size)
        size = batch.samples // parts
        routes = self.by_shape()
        key = ("parts", *((size, *x.shape[1:], x.dtype.char) for x in batch.x))
        route = routes.get(key)
        if route is None and len(routes) < ROUTES:
            with _for_one_thread():
                route = routes[key] = Route(self._plan, batch.rows(slice(0, size)).x)
            route.made = None
        if route is None or route.whole is None:
            return None
        end = parts * size
        inputs = taken(route.whole, [x[:end] for x in batch.x])
        outputs = route.whole(inputs, parts=parts)
        if outputs is not None and end < batch.samples:
            rest = self.outputs(batch.rows(slice(end, None)).x)
            outputs = [np.concatenate(both) for both in zip(outputs, rest)]
        return outputs


@contextlib.contextmanager
def _for_one_thread() -> Iterator[None]:
    """Prepare kernels for one thread within the block."""
    threads = importlib.import_module("npdl._ext.threads")
    threads.plan_alone(True)
    try:
        yield
    finally:
        threads.plan_alone(False)


def _joined(batch: Batch, most: int, run: Callable[[Batch], list[NDArray]]) -> list[NDArray]:
    """The outputs of a batch that runs in equal parts of at most so many samples."""
    parts = -(-batch.samples // most)
    if parts <= 1:
        return run(batch)
    size = -(-batch.samples // parts)
    whole: list[NDArray] = []
    for first in range(0, batch.samples, size):
        outputs = run(batch.rows(slice(first, first + size)))
        if not whole:
            whole = [np.empty((batch.samples, *y.shape[1:]), y.dtype) for y in outputs]
        for array, y in zip(whole, outputs):
            array[first : first + len(y)] = y
    return whole


def _as_bytes(masks: Masks) -> Masks:
    """Masks as uint8; empty if there are none."""
    if not any(mask is not None for mask in masks):
        return ()
    return [None if mask is None else mask.astype(np.uint8) for mask in masks]


def _fold(plan: Plan) -> None:
    """Compute the weights of folded layers once and for all."""
    for layer in layers_of(plan):
        if isinstance(layer, Folded):
            layer.keep()


def _end_of_images(plan: Plan) -> int:
    """The number of steps up to the last one that reads an image."""
    image = {slot for slot, shape in enumerate(plan.in_shapes) if len(shape) == 4}
    end = 0
    for i, step in enumerate(plan.steps):
        image.update(slot for slot, shape in zip(step.targets, step.shapes) if len(shape) == 4)
        if image.intersection(step.sources):
            end = i + 1
    return end


def _weight_bytes(steps: Sequence[Step]) -> int:
    """The bytes of all parameters of some steps, except for tables, of which few rows are read."""
    read = (s.owner for s in steps if not isinstance(s.owner, Embedding))
    return sum({id(p): p.value.nbytes for owner in read for p in owner.parameters}.values())


def _convolves(plan: Plan) -> bool:
    """Whether there is a convolution, whose prepared weights are larger than its weights."""
    return any(isinstance(layer, Convolving) for layer in every_layer(plan.layers))


def _no_shortcut(x: NDArray) -> None:
    """Take no array."""


def _watched() -> dict[Callable[[], Any], Any]:
    """Functions and their results, which are others if `_setting` is another one."""
    return {function: function() for function in (*_ext.WATCHED, *_dtype.WATCHED)}


def _setting() -> tuple[Any, ...]:
    """The settings that, besides weights and inputs, determine the bits of a prediction."""
    return kernels().backend, get_precision(), get_dtype()


def _sample_bytes(plan: Plan, axes: int) -> int:
    """The most bytes of one sample that a layer reads and writes, in arrays of so many axes.

    With 4 axes these are images, with 3 sequences. 0 if the size of the batch matters to a layer:
    to recurrent ones for their speed, to a user's layers perhaps for their results.
    """
    layers = [*every_layer(plan.layers)]
    if any(
        isinstance(layer, Recurrent) or not type(layer).__module__.startswith("npdl.layers.")
        for layer in layers
    ):
        return 0
    itemsize = max((a.itemsize for layer in layers for a in layer.params), default=8)
    size = {slot: _size(shape, axes) for slot, shape in enumerate(plan.in_shapes)}
    most = 0
    for step in plan.steps:
        size.update((slot, _size(shape, axes)) for slot, shape in zip(step.targets, step.shapes))
        most = max(most, sum(size[slot] for slot in {*step.sources, *step.targets}))
    return most * itemsize


def _size(shape: Any, axes: int) -> int:
    """The number of values of a sample; 0 for other arrays, and where a size is open."""
    return math.prod(shape[1:]) if len(shape) == axes and None not in shape[1:] else 0


def _snapshot(model: Trainer) -> Trainer:
    """A copy of a network with its own weights, and no gradients."""
    plan = model.require_plan("predictor")
    layers = [*every_layer(plan.layers)]
    mine = {id(layer) for layer in layers}
    memo: dict[int, Any] = {}
    for layer in layers:
        previous = layer.prev_layer
        if previous is not None and id(previous) not in mine:  # of another network
            memo[id(previous)] = None
        if keeps_its_arrays(layer):
            for parameter in layer._parameters_by_name.values():
                memo[id(parameter.grad)] = memo[id(parameter.home)] = None
    taken = Trainer()
    state = {key: getattr(model, key) for key in _KEPT}
    vars(taken).update(copy.deepcopy(state, memo))
    for step in taken.require_plan("predictor").steps:
        step.layer = step.owner  # not the twin that training runs
    return taken
