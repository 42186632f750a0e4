"""ONNX files of other programs, and damaged ones."""

from itertools import pairwise

import numpy as np
import pytest
from onnx_cases import CASES, agrees, chain, data, randomized

import npdl
from npdl import layers as L

onnx = pytest.importorskip("onnx", reason="needs npdl[onnx]")


def mutate(path, good, rng):
    """Read damaged files; nothing but ValueError may come of it."""
    for _ in range(100):
        bad = bytearray(good[: rng.integers(len(good))] if rng.random() < 0.3 else good)
        for _ in range(rng.integers(1, 20) if bad else 0):
            bad[rng.integers(len(bad))] = rng.integers(256)
        path.write_bytes(bad)
        try:
            npdl.import_onnx(path)
        except ValueError:
            pass


def test_damaged_graphs_are_refused(tmp_path):
    x = npdl.Input((2, 6, 6))
    y = chain(L.Convolution(2, 3), L.BatchNormal(axis=1), L.MaxPooling(2), L.Flatten())(x)
    path = tmp_path / "m.onnx"
    npdl.export_onnx(npdl.Model(x, L.Softmax(3)(y)), path)
    stripped(path)
    mutate(path, path.read_bytes(), np.random.default_rng(0))


def test_a_long_graph_is_read_without_recursion(tmp_path):
    names = ["x", *(f"h{i}" for i in range(2000)), "y"]
    nodes = [onnx.helper.make_node("Tanh", [a], [b]) for a, b in pairwise(names)]
    model = npdl.import_onnx(written(tmp_path, nodes))
    assert len(model.layers) == 2001


def test_damaged_files_are_refused(tmp_path):
    model = npdl.Model([L.LSTM(n_out=4, n_in=3), L.Linear(2)])
    model.build()
    path = tmp_path / "m.onnx"
    npdl.export_onnx(model, path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    mutate(path, good, rng)
    made = onnx.ModelProto.FromString(good)
    made.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    entry = made.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "../secret"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(ValueError, match="must lie in the file itself"):
        npdl.import_onnx(path)

    text = '{"layers":[{"class":"Linear","config":{"n_out":1000000000,"n_in":1000},"name":"a"}]}'
    onnx.helper.set_model_props(made, {"npdl.model": text.replace("]}", '],"frozen":[]}')})
    del made.graph.initializer[:]
    path.write_bytes(made.SerializeToString())
    with pytest.raises(ValueError, match="holds no model that can be loaded"):
        npdl.import_onnx(path)


def stripped(path):
    """The file without what npdl needs to make the same model again."""
    made = onnx.load(path)
    del made.metadata_props[:]
    onnx.save(made, path)


@pytest.mark.parametrize("name", [
    "CNN", "Convolution-0", "Convolution-1", "Convolution-5", "Convolution-6", "Depthwise-2",
    "Transposed-0", "Transposed-5", "Transposed-more", "MaxPooling-1", "MaxPooling-5",
    "BatchNormal-1", "Convolution-softmax", "Parallel", "Residual", "Reshape", "merges", "shared",
])  # fmt: skip
def test_a_graph_of_another_program(name, tmp_path):
    rng = np.random.default_rng(0)
    shape, build = next(case[1:] for case in CASES if case[0] == name)
    x = npdl.Input(shape)
    model = randomized(npdl.Model(x, build(x)), rng)
    path = tmp_path / "m.onnx"
    npdl.export_onnx(model, path)
    stripped(path)
    agrees(npdl.import_onnx(path), path, data(shape, rng, 4))


def written(tmp_path, nodes, arrays=(), shape=("N", 3)):
    info = [onnx.helper.make_tensor_value_info(n, 1, s) for n, s in (("x", shape), ("y", None))]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in dict(arrays).items()]
    graph = onnx.helper.make_graph(nodes, "g", info[:1], info[1:], tensors)
    opset = [onnx.helper.make_opsetid("", 17)]
    made = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.save(made, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("op, options", [
    *((op, {}) for op in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Exp", "Elu")),
    ("LeakyRelu", {}), ("Elu", {"alpha": 0.5}), ("Softmax", {}), ("LogSoftmax", {"axis": 1}),
    ("Softmax", {"axis": -2}), ("Dropout", {}), ("Identity", {}), ("Flatten", {}),
    ("GlobalAveragePool", {}), ("GlobalMaxPool", {}), ("Transpose", {"perm": [0, 3, 1, 2]}),
    ("MaxPool", {"kernel_shape": [2, 3], "strides": [2, 1]}),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 0, 2]}),
    ("AveragePool", {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
])  # fmt: skip
def test_one_node(op, options, tmp_path):
    node = onnx.helper.make_node(op, ["x"], ["y"], **options)
    path = written(tmp_path, [node], shape=("N", 3, 6, 7))
    rng = np.random.default_rng(0)
    agrees(npdl.import_onnx(path), path, rng.normal(size=(2, 3, 6, 7)).astype(np.float32))


@pytest.mark.parametrize("nodes", [
    [("Gemm", ["x", "t", "b"], {"transB": 1})], [("Gemm", ["x", "w"], {})],
    [("MatMul", ["x", "w"], {}), ("Add", ["h0", "b"], {})],
    [("MatMul", ["x", "w"], {}), ("Add", ["b", "h0"], {}), ("Relu", ["h1"], {})],
])  # fmt: skip
def test_dense_in_its_forms(nodes, tmp_path):
    rng = np.random.default_rng(0)
    w, b = (rng.normal(size=s).astype(np.float32) for s in ((3, 4), 4))
    ends = [*(f"h{i}" for i in range(len(nodes) - 1)), "y"]
    made = [onnx.helper.make_node(op, i, [o], **a) for (op, i, a), o in zip(nodes, ends)]
    path = written(tmp_path, made, {"w": w, "t": w.T.copy(), "b": b})
    model = npdl.import_onnx(path)
    agrees(model, path, rng.normal(size=(5, 3)).astype(np.float32))


@pytest.mark.parametrize("op, options, message", [
    ("Erf", {}, "npdl has no layer for this op"), ("Flatten", {"axis": 2}, "axis=2"),
    ("Transpose", {"perm": [1, 0, 2, 3]}, "samples must stay"),
    ("MaxPool", {"kernel_shape": [2, 2], "ceil_mode": 1}, "ceil_mode=1"),
    ("MaxPool", {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"}, "SAME_LOWER"),
    ("AveragePool", {"kernel_shape": [2, 2], "pads": [1] * 4, "count_include_pad": 1}, "pad=1"),
    ("MaxPool", {"kernel_shape": [20, 2]}, "must fit"),
])  # fmt: skip
def test_nodes_without_a_layer_are_named(op, options, message, tmp_path):
    node = onnx.helper.make_node(op, ["x"], ["y"], name="the_node", **options)
    path = written(tmp_path, [node], shape=("N", 3, 6, 7))
    with pytest.raises(ValueError, match=f"{message}.*") as caught:
        npdl.import_onnx(path)
    assert "node='the_node'" in str(caught.value) and f"op='{op}'" in str(caught.value)
