"""Level 2: data for `fit` or `evaluate`, checked against the model, as feeds of batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl import _weights, hints
from npdl._calls import forward_takes
from npdl._checks import check_int, error_message, label_array, warn, weights_like
from npdl.batch import Batch, Names, as_batch, is_stream
from npdl.feed import ArrayFeed, Feed, StreamFeed
from npdl.heads import Head
from npdl.layers.recurrent import is_stateful, states_kept
from npdl.layers.tree import every_layer
from npdl.objectives.base import Objective, aligned, is_plain
from npdl.trainer import Trainer

#: The weights of the classes, by the index of a head.
Tables = dict[int, dict[int, float]]


class Data:
    """The data that a user passed: all of it as a `Batch`, or an iterable of batches.

    Attributes
    ----------
    batch : Batch or None
        All samples.
    stream : iterable or None
    names : Names
    """

    def __init__(self, names: Names, X: Any, Y: Any = None, sample_weight: Any = None) -> None:
        self.names = names
        self.batch: Batch | None = None
        self.stream: Any = None
        if is_stream(X):
            for name, value in (("Y", Y), ("sample_weight", sample_weight)):
                if value is not None:
                    rule = f"`{name}` must be None where `X` is an iterable, which yields it"
                    raise ValueError(error_message(rule, **{name: type(value).__name__}))
            self.stream = X
        else:
            self.batch = as_batch(X, Y, sample_weight, names)

    @classmethod
    def of_validation(cls, names: Names, data: Any) -> Data:
        """Validation data: a pair (X, Y), or an iterable."""
        if is_stream(data) and not isinstance(data, np.ndarray):
            return cls(names, data)
        if not isinstance(data, tuple | list) or len(data) not in (2, 3):
            got = f"{len(data)} items" if isinstance(data, tuple | list) else type(data).__name__
            raise ValueError(f"`validation_data` must be a pair (X, Y). Received: {got}")
        return cls(names, *data)

    def split(self, fraction: float) -> tuple[Data, Data]:
        """Hold out the last samples; both parts are views."""
        batch = self.batch
        if batch is None:
            rule = "`validation_split` needs arrays; pass validation_data beside an iterable"
            raise ValueError(error_message(rule, validation_split=fraction))
        total = batch.samples
        n = total - round(total * fraction)
        if n in (0, total):
            rule = f"`validation_split` must divide {total} samples into two parts"
            raise ValueError(error_message(rule, validation_split=fraction))
        return self._of(batch.rows(slice(n))), self._of(batch.rows(slice(n, None)))

    def _of(self, batch: Batch) -> Data:
        data = Data.__new__(Data)
        data.names, data.batch, data.stream = self.names, batch, None
        return data

    def feed(self, batch_size: int, steps: int | None) -> Feed:
        """Batches of this data, without further checks."""
        if self.batch is None:
            return StreamFeed(self.stream, steps, names=self.names)
        return ArrayFeed(self.batch, batch_size, False, steps)


def make_feed(
    model: Trainer,
    data: Data,
    batch_size: int,
    steps: int | None = None,
    shuffle: bool = False,
    class_weight: Any = None,
) -> Feed:
    """Batches of data, checked by trying a sample on the model."""
    check_int("batch_size", batch_size)
    steps = None if steps is None else check_int("steps", steps)
    if shuffle and any(map(is_stateful, every_layer(model.layers))):
        warn("A stateful layer keeps its state from batch to batch: call fit with shuffle=False.")
    if data.batch is not None:
        model.build_for(data.batch.x)
        tables = class_tables(model, class_weight, data.batch)
        return ArrayFeed(prepare(model, data.batch, tables), batch_size, shuffle, steps)
    feed = StreamFeed(
        data.stream, steps, lambda batch: weighed(model, batch, tables), names=data.names
    )
    first = feed.first()
    model.build_for(first.x)
    tables = class_tables(model, class_weight)
    prepare(model, first, tables)
    return feed


@contextlib.contextmanager
def about_validation() -> Iterator[None]:
    """Prefix errors raised in the block, to say that they are about the validation data."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        text = str(error)
        if "`validation_data`" in text:
            raise
        raise kind(f"In the validation data: {text}") from error


def one_batch(model: Trainer, X: Any, Y: Any, sample_weight: Any, class_weight: Any) -> Batch:
    """A batch of arrays, with its weights."""
    batch = with_targets(as_batch(X, Y, sample_weight, model.data_names))
    model.build_for(batch.x)
    return weighed(model, batch, class_tables(model, class_weight, batch))


def with_targets(batch: Batch) -> Batch:
    """The batch, which must have targets."""
    if not batch.y:
        raise ValueError("`Y` must be given, or come with the batches of `X`. Received: Y=None")
    return batch


def prepare(model: Trainer, batch: Batch, tables: Tables) -> Batch:
    """The batch with its weights. Wrong shapes or labels raise an error here."""
    with_targets(batch)
    with states_kept(model.layers), np.errstate(all="ignore"):
        return _tried(model, batch, tables)


def _tried(model: Trainer, batch: Batch, tables: Tables) -> Batch:
    plan = model.require_plan("fit")
    one = batch.rows(slice(1))
    n = batch.samples
    try:
        outputs, masks = plan.forward(one.x, False, one.mask or None)
    except ValueError as error:
        if n > 1:
            error.add_note(f"This was the first of {n} samples, which is tried by itself.")
        raise
    for rows in _extreme_rows(batch):
        plan.forward(rows.x, False, rows.mask or None)
    _warn_of_lost_masks(model, batch, masks)
    if plan.is_chain:
        hints.channels_last(plan.layers[0], batch.x[0])
    for head in model.heads:
        i = head.index
        if batch.y[i] is None:
            raise ValueError(
                f"`Y` must have targets for the output {head.name!r}, which has a loss."
            )
        mark, mask = masks[i], None
        if mark is not None:
            alike = (m for m in batch.mask if m is not None and m.shape[1:] == mark.shape[1:])
            mask = next(alike, None)
            if mask is None:
                continue  # a mask that layers made: it is checked batch by batch
        maker = plan.makers.get(plan.out_slots[i])
        if maker is not None:
            hints.targets_out_of_reach(maker.owner, head.loss, batch.y[i])  # type: ignore[arg-type]
        weight = batch.weight[i] if batch.weight else None
        _check_targets(head, batch.y[i], weight, mask, (n, *outputs[i].shape[1:]))
    batch = weighed(model, batch, tables)
    model.forward_batch(batch.rows(slice(1)), train=False)
    return batch


def _extreme_rows(batch: Batch) -> Iterator[Batch]:
    """The samples with the smallest and the largest number of each input of whole numbers.

    So a number out of an embedding's range is found before the first step. Images are left out.
    """
    for x in batch.x:
        if x.dtype.kind in "iu" and x.ndim <= 2:
            for flat in {int(x.argmin()), int(x.argmax())}:
                row = flat // (x.size // len(x))
                yield batch.rows(slice(row, row + 1))


def _warn_of_lost_masks(model: Trainer, batch: Batch, masks: Sequence[NDArray | None]) -> None:
    """Warn if the user's mask reaches no layer that reads it, and no loss."""
    if all(mask is None for mask in batch.mask):
        return
    if any(masks[head.index] is not None for head in model.heads):
        return
    layers = every_layer(model.require_plan("fit").layers)
    if not any(forward_takes(type(layer).forward)[1] for layer in layers):
        warn("The mask changes nothing: no layer reads it, and no output has its steps.")


def _check_targets(
    head: Head,
    y: Any,
    weight: NDArray | None,
    mask: NDArray | None,
    shape: tuple[int, ...],
) -> None:
    """Check all targets and weights of an output of this shape."""
    loss = head.loss
    if not is_plain(loss):
        return
    outputs, y = loss.arrange(np.broadcast_to(np.float32(0), shape), y)
    y, items = aligned(loss, outputs, y), loss.item_shape(outputs)
    matched = loss.match(outputs.shape, y.shape)
    if weight is not None:
        weights_like(items, weight)
    if not loss.takes_labels or len(matched) == outputs.ndim:
        return
    labels, kept = y.reshape(matched), np.ones(matched, bool)
    for counting in (mask, weight):
        if counting is not None and counting.shape == items[: counting.ndim]:
            kept &= weights_like(items, counting) != 0
    if loss.ignore_class is not None:
        kept &= labels != loss.ignore_class
    label_array(labels if kept.all() else labels[kept], outputs.shape[-1], "Y")


# ------------------------------------------------------------------------- weights of classes


def class_tables(model: Trainer, class_weight: Any, batch: Batch | None = None) -> Tables:
    """The weights of the classes for each output; "balanced" ones need all samples."""
    if class_weight is None:
        return {}
    heads = {head.name: head for head in model.heads}
    if None in heads:
        return {0: _class_table(model, heads[None], class_weight, batch)}
    if not isinstance(class_weight, Mapping) or not class_weight.keys() <= heads.keys():
        rule = "`class_weight` of a model of several outputs must be a dict by output"
        raise ValueError(
            error_message(f"{rule} ({', '.join(map(str, heads))})", received=class_weight)
        )
    return {
        heads[name].index: _class_table(model, heads[name], given, batch)
        for name, given in class_weight.items()
    }


def _class_table(
    model: Trainer, head: Head, class_weight: Any, batch: Batch | None
) -> dict[int, float]:
    if not isinstance(class_weight, str):
        return _weights.class_table(class_weight)
    if class_weight != "balanced" or batch is None:
        rule = "`class_weight` must be a dict of weights, an array, or, for arrays, 'balanced'"
        raise ValueError(error_message(rule, class_weight=class_weight))
    labels = _weights.class_numbers(*_classes_last(model, head, batch))
    kept = np.ones(labels.shape, bool)
    for mask in batch.mask:
        if mask is not None and labels.shape[:2] == mask.shape:
            kept &= mask.reshape(mask.shape + (1,) * (labels.ndim - 2)) != 0
    if getattr(head.loss, "ignore_class", None) is not None:
        kept &= labels != head.loss.ignore_class
    return _weights.balanced(labels[kept])


def _classes_last(model: Trainer, head: Head, batch: Batch) -> tuple[NDArray, tuple[int, ...]]:
    """Targets of an output, and its shape, with the classes along the last axis."""
    targets: Any = with_targets(batch).y[head.index]
    shape = [n or 1 for n in model.require_plan("fit").out_shapes[head.index]]
    outputs = np.broadcast_to(np.float32(0), shape)
    if isinstance(head.loss, Objective):
        outputs, targets = head.loss.arrange(outputs, targets)
    return targets, outputs.shape


def weighed(model: Trainer, batch: Batch, tables: Tables) -> Batch:
    """The batch with the weights of the classes, if there are any."""
    if not tables:
        return batch
    y = with_targets(batch).y
    weights = list(batch.weight or (None,) * len(y))
    heads = {head.index: head for head in model.heads}
    for i, table in tables.items():
        by_class = _weights.class_weights(table, *_classes_last(model, heads[i], batch))
        weights[i] = _weights.times(by_class, weights[i])
    return batch._replace(weight=tuple(weights))
