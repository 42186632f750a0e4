"""Damaged or malicious model files: a ValueError, and nothing has changed."""

import copy
import json
import os
import random
import resource
import tracemalloc
import warnings

import numpy as np
import pytest
from saving_models import make_data, make_model, train

import npdl
from npdl import _safetensors
from npdl.utils import get_dtype, get_rng_state


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Tensors, configuration and state of a good file."""
    npdl.utils.set_seed(1)
    model = make_model()
    train(model)
    path = tmp_path_factory.mktemp("model") / "good"
    model.save(path)
    return _safetensors.read(path)


def texts(metadata, config, state):
    return metadata | {"npdl.model": json.dumps(config), "npdl.state": json.dumps(state)}


def write(path, parts, change=None):
    """A good file, changed by ``change(tensors, config, state)``."""
    tensors, metadata = dict(parts[0]), parts[1]
    config, state = (json.loads(metadata[key]) for key in ("npdl.model", "npdl.state"))
    if change is not None:
        change(tensors, config, state)
    _safetensors.write(path, tensors, texts(metadata, config, state))


def layer(number, **options):
    return lambda t, c, s: c["layers"][number]["config"].update(options)


def whole_layer(number, **entry):
    return lambda t, c, s: c["layers"][number].update(entry)


def undeclared(shape):
    """The first layer does not declare the shape of its input; the model has it."""

    def change(tensors, config, state):
        config["layers"][0]["config"]["input_shape"] = None
        config["input_shape"] = shape

    return change


def nest(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


REFUSED = r"holds no model|is no valid|damaged metadata|one that Model\.save wrote"
SLOT = "optimizer/slots/dense_1/W/mean"
BAD = {
    "huge-dense": layer(7, n_out=10**12),
    "large-dense": layer(7, n_out=10**8),
    "huge-filters": layer(0, nb_filter=2**40),
    "huge-window": layer(0, filter_size=[2**31, 2**31]),
    "huge-units": layer(6, n_out=10**9),
    "huge-input": layer(0, input_shape=[2**40, 2**40, 2**40]),
    "no-units": layer(7, n_out=0),
    "units-a-text": layer(7, n_out="6"),
    "units-a-list": layer(7, n_out=[[6]]),
    "other-units": layer(7, n_out=7),
    "unknown-argument": layer(7, os="system"),
    "unknown-activation": layer(7, activation="os.system"),
    "activation-a-number": layer(7, activation=3),
    "unknown-initializer": layer(7, init={"name": "Normal", "std": 1, "x": 1}),
    "deep-initializer": layer(7, init={"name": "Normal", "std": nest(500)}),
    "epsilon-inf": layer(1, epsilon={"$float": "inf"}),
    "float-of-anything": layer(1, epsilon={"$float": "abc"}),
    "float-of-a-list": layer(1, epsilon={"$float": [1]}),
    "axis-beyond": layer(1, axis=17),
    "missing-array": layer(7, init={"$array": "nowhere"}),
    "array-for-a-number": layer(7, n_out={"$array": "dense_1/b"}),
    "array-name-a-list": layer(7, init={"$array": [1]}),
    "class-of-object": whole_layer(7, **{"class": "object"}),
    "class-base": whole_layer(7, **{"class": "Layer"}),
    "class-parameter": whole_layer(7, **{"class": "Parameter"}),
    "class-a-list": whole_layer(7, **{"class": ["Dense"]}),
    "class-dunder": whole_layer(7, **{"class": "__builtins__"}),
    "config-a-list": whole_layer(7, config=[1]),
    "config-none": whole_layer(7, config=None),
    "name-none": whole_layer(7, name=None),
    "name-twice": whole_layer(7, name="softmax_1"),
    "no-layers": lambda t, c, s: c.update(layers=[]),
    "layers-a-number": lambda t, c, s: c.update(layers=3),
    "layers-none": lambda t, c, s: c.pop("layers"),
    "dtype": lambda t, c, s: c.update(dtype="int8"),
    "dtype-object": lambda t, c, s: c.update(dtype="object"),
    "no-dtype": lambda t, c, s: c.pop("dtype"),
    "frozen": lambda t, c, s: c.update(frozen=3),
    "no-frozen": lambda t, c, s: c.pop("frozen"),
    "loss": lambda t, c, s: c.update(loss="eval"),
    "loss-none": lambda t, c, s: c.update(loss=None),
    "optimizer": lambda t, c, s: c.update(optimizer={"name": "Adam", "lr": "1"}),
    "no-optimizer": lambda t, c, s: c.pop("optimizer"),
    "input-shape": undeclared("abc"),
    "input-shape-huge": undeclared([None, 2**60, 2**60, 2**60]),
    "missing-weights": lambda t, c, s: t.pop("dense_1/W"),
    "more-weights": lambda t, c, s: t.update(x=np.zeros(3)),
    "weights-of-ints": lambda t, c, s: t.update({"dense_1/b": np.zeros(6, int)}),
    "weights-of-bools": lambda t, c, s: t.update({"dense_1/b": np.zeros(6, bool)}),
    "weights-shape": lambda t, c, s: t.update({"dense_1/b": np.zeros(5, np.float32)}),
    "weights-rank": lambda t, c, s: t.update({"dense_1/b": np.zeros((6, 1), np.float32)}),
    "slot-shape": lambda t, c, s: t.update({SLOT: np.zeros(7, np.float32)}),
    "slot-ints": lambda t, c, s: t.update({SLOT: np.zeros((4, 6), int)}),
    "slot-missing": lambda t, c, s: t.pop(SLOT),
    "slot-a-number": lambda t, c, s: s["optimizer"]["slots"]["dense_1/W"].update(mean=3),
    "slots-a-list": lambda t, c, s: s["optimizer"].update(slots=[1]),
    "slots-of-nobody": lambda t, c, s: s["optimizer"]["slots"].update(x={"mean": 1}),
    "iterations": lambda t, c, s: s["optimizer"].update(iterations="x"),
    "optimizer-state": lambda t, c, s: s.update(optimizer=3),
    "no-rng": lambda t, c, s: s.pop("rng"),
    "rng-of-os": lambda t, c, s: s["rng"].update(bit_generator="os"),
    "rng-negative": lambda t, c, s: s["rng"]["state"].update(inc=-1),
    "rng-huge": lambda t, c, s: s["rng"]["state"].update(state=2**200),
    "rng-pool": lambda t, c, s: s["rng"]["seed_sequence"].update(pool_size=10**9),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_bad_configurations(tmp_path, parts, change):
    write(tmp_path / "x", parts, change)
    check_refused(tmp_path / "x")


def check_refused(path):
    before = get_rng_state()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=REFUSED):
            npdl.load_model(path)
        assert tracemalloc.get_traced_memory()[1] < 10 * path.stat().st_size + 2_000_000
    finally:
        tracemalloc.stop()
    assert get_rng_state() == before
    assert get_dtype() == np.float32


@pytest.mark.parametrize(
    "text",
    ["", "3", "[]", "null", "{", '{"a":1,"a":2}', '{"layers":NaN}', "[" * 10**5, "9" * 10**5],
    ids=lambda text: text[:12],
)
@pytest.mark.parametrize("key", ["npdl.model", "npdl.state"])
def test_bad_metadata(tmp_path, parts, key, text):
    _safetensors.write(tmp_path / "x", parts[0], parts[1] | {key: text})
    check_refused(tmp_path / "x")


def test_many_layers_take_no_time(tmp_path, parts):
    def change(tensors, config, state):
        config["layers"] = [
            {"class": "Flatten", "name": f"f{i}", "config": {}} for i in range(100_000)
        ]

    write(tmp_path / "x", parts, change)
    with pytest.raises(ValueError, match="holds no model"):
        npdl.load_model(tmp_path / "x")


def test_a_bad_file_leaves_a_model_as_it_was(tmp_path, parts):
    model = make_model()
    before = model.state_dict()
    for name, change in BAD.items():
        if name.startswith(("weights-", "missing-w", "more-w")):
            write(tmp_path / "x", parts, change)
            with pytest.raises(ValueError, match=r"The weights|must be those of the model"):
                model.load_weights(tmp_path / "x")
    assert all(np.array_equal(before[name], a) for name, a in model.weights.items())


# ---------------------------------------------------------------------------------------- fuzzing


def damage_bytes(rng, good):
    """Turn a few bytes of a file, most of them in its header, or cut it."""
    data = bytearray(good)
    head = 8 + int.from_bytes(good[:8], "little")
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        place = rng.randrange(head if rng.random() < 0.9 else len(data)) % len(data)
        way = rng.randrange(5)
        if way == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif way == 1:
            data[place] = rng.choice(b'0123456789[]{}",:\\-.eE ')
        elif way == 2:
            del data[place : place + rng.randrange(1, 9)]
        elif way == 3:
            data[place:place] = rng.choice([b"9", b"[", b"null", b"-1", b"1e999", b"\\u0000"])
        elif rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        data = data or bytearray(b"\0")
    return bytes(data)


VALUES = [
    *(-1, 0, 1, 2, 3, 2**31, 2**63, 2**70, 1e308, -0.5, True, None, "", "Dense", "x" * 1000),
    *([], {}, [[]], [1, 2, 3], nest(30), {"name": "Softmax"}, {"$array": "dense_1/W"}),
    *({"$float": "nan"}, {"$float": "-inf"}, {"$array": 3}),
]


def damage_values(rng, tree):
    """Change, remove or add an item anywhere in a tree of JSON."""
    holders = []

    def collect(value):
        if isinstance(value, dict | list) and value:
            holders.append(value)
            for item in value.values() if isinstance(value, dict) else value:
                collect(item)

    collect(tree)
    holder = rng.choice(holders)
    key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    way = rng.randrange(4)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[rng.choice(["name", "n_out", "$array", "lr", "x"])] = another(rng, VALUES)
    elif way == 2:
        holder[key] = another(rng, rng.choice(holders))
    else:
        holder[key] = another(rng, VALUES)


def another(rng, values):
    """A copy of one of them."""
    return copy.deepcopy(rng.choice([*values.values()] if isinstance(values, dict) else values))


def damaged_files(path, parts, count, seed):
    """Write damaged files to `path`, one after another."""
    rng = random.Random(seed)
    tensors, metadata = parts
    _safetensors.write(path, *parts)
    good = path.read_bytes()
    for i in range(count):
        if i % 2:
            path.write_bytes(damage_bytes(rng, good))
        else:
            trees = [json.loads(metadata[key]) for key in ("npdl.model", "npdl.state")]
            for _ in range(rng.choice([1, 1, 2, 3])):
                damage_values(rng, rng.choice([trees[0], trees[0], trees[1]]))
            text = texts(metadata, *trees)
            header_of(path, tensors, text)
        yield i


def header_of(path, tensors, metadata, atomic_write=_safetensors.atomic_write):
    """`_safetensors.write` without flushing the disk, for thousands of files."""
    flush = os.fsync
    os.fsync = lambda descriptor: None
    try:
        _safetensors.write(path, tensors, metadata)
    finally:
        os.fsync = flush


def run_damaged(path, parts, count, seed):
    """Load `count` damaged files; return how many were refused."""
    x = make_data()[0]
    refused = 0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for _ in damaged_files(path, parts, count, seed):
            try:
                model = npdl.load_model(path)
            except ValueError:
                refused += 1
                continue
            assert get_dtype() == np.float32
            try:  # a model that can be loaded must not crash either
                model.predict(x) if model.compiled else model.forward(x, train=False)
            except ValueError:
                pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100 * 1024
    return refused


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_files(tmp_path, parts, seed):
    """2 x 1,000 files."""
    assert 500 < run_damaged(tmp_path / "x", parts, 1000, seed) < 1000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_thousands_of_damaged_files(tmp_path, parts, seed):
    """10 x 3,000 files."""
    assert 1500 < run_damaged(tmp_path / "x", parts, 3000, seed) < 3000
