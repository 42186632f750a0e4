"""The safetensors layout: bytes readable by eye, the reference package both ways, hostile files."""

import json
import os
import random
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from npdl import _safetensors as own

safetensors = pytest.importorskip("safetensors")
reference = pytest.importorskip("safetensors.numpy")


def build(header, values=b"", length=None):
    """The bytes of a file, however wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + values


def entry(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.c_contiguous and found[name].flags.writeable


def test_the_bytes_of_a_file(tmp_path):
    path = tmp_path / "x"
    own.write(path, {"w": np.array([[1, 2]], np.int16), "ü": np.float32(0.5)[...]}, {"a": "b"})
    text = (
        '{"__metadata__":{"a":"b"},"ü":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
        '"w":{"dtype":"I16","shape":[1,2],"data_offsets":[4,8]}}'
    ).encode()
    text += b" " * (-len(text) % 8)
    assert path.read_bytes() == build(text, b"\0\0\0\x3f\1\0\2\0")
    same(own.read(path)[0], {"w": np.array([[1, 2]], np.int16), "ü": np.float32(0.5)[...]})
    assert own.read(path)[1] == {"a": "b"}


DTYPES = [np.dtype(code) for name, code in own.DTYPES.items() if name != "BF16"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
ARRAYS = hnp.arrays(st.sampled_from([*DTYPES, np.dtype(">f4"), np.dtype(">i8")]), SHAPES)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    tensors=st.dictionaries(TEXTS.filter(lambda name: name != "__metadata__"), ARRAYS, max_size=4),
    metadata=st.dictionaries(TEXTS, TEXTS, max_size=1),
)
def test_the_same_bytes_as_the_reference(tmp_path_factory, tensors, metadata):
    folder = tmp_path_factory.mktemp("both")
    own.write(folder / "own", tensors, metadata)
    plain = {name: a.astype(a.dtype.newbyteorder("=")) for name, a in tensors.items()}
    reference.save_file(plain, folder / "reference", metadata or None)
    assert (folder / "own").read_bytes() == (folder / "reference").read_bytes()
    same(reference.load_file(folder / "own"), tensors)
    found, texts = own.read(folder / "reference")
    same(found, tensors)
    assert texts == metadata


@pytest.mark.parametrize("view", [lambda a: a.T, lambda a: a[::-2, 1:], np.asfortranarray])
def test_any_order_in_memory(tmp_path, rng, view):
    array = view(rng.normal(size=(5, 4)))
    own.write(tmp_path / "x", {"a": array}, {})
    same(reference.load_file(tmp_path / "x"), {"a": array})


def test_bfloat16_becomes_float32(tmp_path):
    (tmp_path / "x").write_bytes(
        build({"a": entry((3,), (0, 6), "BF16")}, b"\x80\x3f\x40\xc0\x80\x7f")
    )
    same(own.read(tmp_path / "x")[0], {"a": np.array([1, -3, np.inf], np.float32)})


def test_what_has_no_place_in_the_format(tmp_path):
    with pytest.raises(TypeError, match=r"'a' must hold booleans.*dtype=complex128"):
        own.write(tmp_path / "x", {"a": np.zeros(2, complex)}, {})
    with pytest.raises(ValueError, match=r"must fit into 16,777,216 bytes"):
        own.write(tmp_path / "x", {}, {"a": "x" * own.MAX_HEADER})
    assert not any(tmp_path.iterdir())


DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
HOSTILE = {
    "empty": (b"", "has 0 bytes"),
    "seven-bytes": (b"\1" * 7, "has 7 bytes"),
    "longer-than-the-file": (build({}, length=3), "too short"),
    "longer-than-any-file": (build({}, length=2**64 - 1), "too short"),
    "npz": (b"PK\3\4" + bytes(40), "zip archive"),
    "not-an-object": (build(b"[1]"), "does not start"),
    "space-first": (build(b" {}"), "does not start"),
    "no-json": (build(b"{x}"), "can't be read"),
    "not-utf-8": (build(b'{"\xff":1}'), "utf-8"),
    "nul": (build(b"\0" * 8), "does not start"),
    "twice": (build(b'{"a":1,"a":1}'), "twice"),
    "deep": (build(DEEP), "nested too deeply"),
    "braces": (build(b"{" + b"[" * 2**20 + b"}"), "too complex"),
    "many-digits": (build(b'{"a":' + b"9" * 5000 + b"}"), "can't be read"),
    "nan": (build(b'{"a":NaN}'), "not JSON"),
    "metadata-a-list": (build({"__metadata__": [1]}), "metadata must be texts"),
    "metadata-a-number": (build({"__metadata__": {"a": 1}}), "metadata must be texts"),
    "entry-a-number": (build({"a": 1}), "'a' must have dtype"),
    "entry-too-much": (build({"a": entry() | {"b": 1}}, bytes(8)), "alone"),
    "no-shape": (build({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)), "alone"),
    "unknown-dtype": (build({"a": entry(dtype="F8_E4M3")}, bytes(8)), "'F8_E4M3'"),
    "dtype-a-list": (build({"a": entry(dtype=["F32"])}, bytes(8)), "dtype"),
    "negative-size": (build({"a": entry((-2,))}, bytes(8)), "shape of 'a'"),
    "size-a-float": (build({"a": entry((2.0,))}, bytes(8)), "shape of 'a'"),
    "size-a-bool": (build({"a": entry((2, True))}, bytes(8)), "shape of 'a'"),
    "64-axes": (build({"a": entry((1,) * 64, (0, 4))}, bytes(4)), "shape of 'a'"),
    "huge-size": (build({"a": entry((10**4000,))}, bytes(8)), "shape of 'a'"),
    "huge-product": (build({"a": entry((2**62,) * 8)}, bytes(8)), "too large"),
    "huge-but-empty": (build({"a": entry((0, 2**40, 2**40), (0, 0))}), "too large"),
    "wraps-around": (build({"a": entry((2**32, 2**32), (0, 0))}), "too large"),
    "beyond-the-end": (build({"a": entry((2**40,), (0, 2**42))}, bytes(8)), "8 bytes of values"),
    "one-offset": (build({"a": entry(offsets=(8,))}, bytes(8)), "data_offsets"),
    "negative-offset": (build({"a": entry(offsets=(-8, 0))}, bytes(8)), "data_offsets"),
    "backwards": (build({"a": entry(offsets=(8, 0))}, bytes(8)), "instead of 8"),
    "wrong-length": (build({"a": entry((3,))}, bytes(8)), "8 bytes instead of 12"),
    "wrong-width": (build({"a": entry(dtype="F64")}, bytes(8)), "8 bytes instead of 16"),
    "gap": (build({"a": entry(), "b": entry((1,), (12, 16))}, bytes(16)), "12 instead of 8"),
    "gap-in-front": (build({"a": entry(offsets=(4, 12))}, bytes(12)), "4 instead of 0"),
    "overlap": (build({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "4 instead of 8"),
    "same-place": (build({"a": entry(), "b": entry()}, bytes(8)), "0 instead of 8"),
    "truncated": (build({"a": entry()}, bytes(7)), "7 bytes of values instead of 8"),
    "something-behind": (build({"a": entry()}, bytes(9)), "9 bytes of values instead of 8"),
}


@pytest.mark.parametrize("content, message", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files(tmp_path, content, message):
    path = tmp_path / "hostile"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="is no valid safetensors file") as error:
            own.read(path)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(content) + 1_000_000
    finally:
        tracemalloc.stop()
    assert message in str(error.value)


MEASURE = """
import resource, sys
from npdl import _safetensors
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    _safetensors.read(sys.argv[1])
except ValueError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_the_worst_header_takes_little_memory(tmp_path):
    """As many small objects as one may hold."""
    path = tmp_path / "large"
    items = b"[]," * (own.MAX_CONTAINERS - 10) + b"9.5," * 3_000_000
    path.write_bytes(build(b'{"a":[' + items + b"0]}"))
    assert 15e6 < path.stat().st_size < own.MAX_HEADER
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True
    )
    message, kilobytes = run.stdout.splitlines()
    assert "'a' must have dtype" in message
    assert int(kilobytes) < 300 * 1024


def test_longer_headers_are_refused(tmp_path):
    (tmp_path / "x").write_bytes(build(b"{}" + b" " * own.MAX_HEADER))
    with pytest.raises(ValueError, match="more than 16,777,216"):
        own.read(tmp_path / "x")


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        own.read(tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        own.read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="not a regular file"):
            own.read(path)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_read_the_reference_reads_too(tmp_path, seed):
    """Of 500 damaged files for each seed: refused, or the same arrays as in the reference."""
    rng = random.Random(seed)
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b/c": np.arange(4),
        "d": np.ones(()),
    }
    own.write(tmp_path / "x", tensors, {"format": "np", "text": "{[1, 2]}"})
    good = (tmp_path / "x").read_bytes()
    head = 8 + int.from_bytes(good[:8], "little")
    read = 0
    for _ in range(500):
        (tmp_path / "x").write_bytes(damage(rng, good, head))
        try:
            found, metadata = own.read(tmp_path / "x")
        except ValueError:
            continue
        read += 1
        with safetensors.safe_open(tmp_path / "x", "np") as file:
            assert file.metadata() == (metadata or None)
            same({name: file.get_tensor(name) for name in file.keys()}, found)
    assert 20 < read < 400


def damage(rng, good, head):
    """Change a few bytes, digits, or the length of a file."""
    data = bytearray(good)
    for _ in range(rng.choice([1, 1, 2, 5])):
        way, place = rng.randrange(6), rng.randrange(min(head, len(data)))
        if way == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif way == 1:
            digits = [i for i in range(8, min(head, len(data))) if 48 <= data[i] < 58]
            if digits:
                data[rng.choice(digits)] = rng.choice(b"0123456789")
        elif way == 2:
            del data[-rng.randrange(1, 20) :]
        elif way == 3:
            data[place:place] = rng.choice([b"0", b"[", b'"', b"{}", b" ", bytes(3), b"1e9"])
        elif way == 4:
            data[-1 - rng.randrange(min(70, len(data)))] = rng.randrange(256)
        else:
            data[rng.randrange(8)] = rng.randrange(256)
        data = data or bytearray(8)
    return bytes(data)
