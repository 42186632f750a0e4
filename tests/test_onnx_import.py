"""ONNX files of other programs, and damaged ones."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from onnx_cases import CASES, agrees, chain, data, randomized

import npdl
from npdl import layers as L

onnx = pytest.importorskip("onnx", reason="needs npdl[onnx]")


def mutate(path, good, rng, count=100):
    """Read damaged files; the only allowed error is ValueError."""
    for _ in range(count):
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
    with pytest.raises(ValueError, match="must lie in the file itself, or in a file of its folder"):
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
    ("AveragePool", {"kernel_shape": [3, 2], "pads": [1, 1, 0, 1], "count_include_pad": 1}),
    ("MaxPool", {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [4, 3], "ceil_mode": 1}),
    ("HardSigmoid", {}), ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    ("Selu", {}), ("Selu", {"alpha": 2.0, "gamma": 3.0}),
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


@pytest.mark.parametrize("options", [
    {"auto_pad": "SAME_UPPER", "strides": [2, 3]}, {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"output_shape": [14, 20], "strides": [2, 3]}, {"output_shape": [11, 13], "strides": [2, 2]},
    {"auto_pad": "SAME_UPPER", "dilations": [2, 1]},
])  # fmt: skip
def test_transposed_convolutions_for_a_size_of_output(options, tmp_path):
    rng = np.random.default_rng(0)
    w = rng.normal(size=(3, 2, 3, 3)).astype(np.float32)
    node = onnx.helper.make_node("ConvTranspose", ["x", "w"], ["y"], **options)
    path = written(tmp_path, [node], {"w": w}, shape=("N", 3, 6, 7))
    agrees(npdl.import_onnx(path), path, rng.normal(size=(2, 3, 6, 7)).astype(np.float32))


def test_gaps_between_windows_are_refused_where_programs_differ(tmp_path):
    options = {"auto_pad": "SAME_UPPER", "strides": [4, 4]}
    node = onnx.helper.make_node("ConvTranspose", ["x", "w"], ["y"], **options)
    path = written(tmp_path, [node], {"w": np.ones((3, 2, 3, 3), "f4")}, shape=("N", 3, 6, 7))
    with pytest.raises(ValueError, match="must cover the stride"):
        npdl.import_onnx(path)


def test_a_product_of_two_values(tmp_path):
    """Self-attention without weights."""
    make = onnx.helper.make_node
    nodes = [make("Transpose", ["x"], ["t"], perm=[0, 2, 1]), make("MatMul", ["x", "t"], ["s"])]
    nodes += [make("Softmax", ["s"], ["p"]), make("MatMul", ["p", "x"], ["y"])]
    path = written(tmp_path, nodes, shape=("N", 5, 3))
    model = npdl.import_onnx(path)
    agrees(model, path, np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32))
    path = written(tmp_path, [make("MatMul", ["x", "x"], ["y"])], shape=("N", 2, 3, 3))
    with pytest.raises(ValueError, match="must be constant, of 2 axes"):
        npdl.import_onnx(path)


@pytest.mark.parametrize("op, options, message", [
    ("Erf", {}, "npdl has no layer for this op"), ("Flatten", {"axis": 2}, "axis=2"),
    ("Transpose", {"perm": [1, 0, 2, 3]}, "samples must stay"),
    ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 2]}, r"dilations=\[2, 2\]"),
    ("MaxPool", {"kernel_shape": [20, 2]}, "must fit"),
])  # fmt: skip
def test_nodes_without_a_layer_are_named(op, options, message, tmp_path):
    node = onnx.helper.make_node(op, ["x"], ["y"], name="the_node", **options)
    path = written(tmp_path, [node], shape=("N", 3, 6, 7))
    with pytest.raises(ValueError, match=f"{message}.*") as caught:
        npdl.import_onnx(path)
    assert "node='the_node'" in str(caught.value) and f"op='{op}'" in str(caught.value)


@pytest.mark.parametrize("op, shape, first", [
    ("Add", (), False), ("Mul", (1,), True), ("Sub", (3, 1, 1), True), ("Sub", (1, 3, 1, 1), False),
    ("Div", (7,), False), ("Mul", (6, 1), False), ("Div", (), False), ("Add", (1, 1, 1, 1), True),
])  # fmt: skip
def test_constants(op, shape, first, tmp_path):
    rng = np.random.default_rng(0)
    c = rng.uniform(0.5, 2, shape).astype(np.float32)
    node = onnx.helper.make_node(op, ["c", "x"] if first else ["x", "c"], ["y"])
    path = written(tmp_path, [node], {"c": c}, shape=("N", 3, 6, 7))
    model = npdl.import_onnx(path)
    agrees(model, path, rng.normal(size=(2, 3, 6, 7)).astype(np.float32))
    assert not model.get_weights() or not any(trained for _, _, trained in model.named_arrays())


def test_positions_are_learned(tmp_path):
    rng = np.random.default_rng(0)
    c = rng.normal(size=(1, 4, 3)).astype(np.float32)
    node = onnx.helper.make_node("Add", ["x", "c"], ["y"])
    path = written(tmp_path, [node], {"c": c}, shape=("N", 4, 3))
    model = npdl.import_onnx(path)
    agrees(model, path, rng.normal(size=(2, 4, 3)).astype(np.float32))
    assert isinstance(model.layers[0], L.PositionEmbedding)


def test_constants_that_grow_are_refused(tmp_path):
    nodes = [onnx.helper.make_node("Concat", ["c", "c"], ["c0"], axis=0)]
    nodes += [
        onnx.helper.make_node("Concat", [f"c{i}"] * 2, [f"c{i + 1}"], axis=0) for i in range(60)
    ]
    nodes.append(onnx.helper.make_node("Add", ["x", "c60"], ["y"]))
    with pytest.raises(ValueError, match="up to 65,536 numbers"):
        npdl.import_onnx(written(tmp_path, nodes, {"c": np.ones(3, np.float32)}))
    ids = np.zeros(1 << 15, np.int64)
    nodes = [
        onnx.helper.make_node("Gather", ["c", "ids"], ["g"]),
        onnx.helper.make_node("Add", ["x", "g"], ["y"]),
    ]
    with pytest.raises(ValueError, match="up to 65,536 numbers"):
        arrays = {"c": np.ones((1, 1 << 15), np.float32), "ids": ids}
        npdl.import_onnx(written(tmp_path, nodes, arrays))


# ---------------------------------------------------------------------------- recurrent nodes

GOLDEN = Path(__file__).parent / "golden" / "onnx"


@pytest.mark.parametrize("name, turned", [
    ("lstm_last_step", False), ("lstm_both_states", False), ("gru_both_turned", True),
    ("gru_two_states", False), ("rnn_both", False), ("lstm_two_turned", True),
])  # fmt: skip
def test_recurrent_networks_of_pytorch(name, turned):
    path = GOLDEN / f"{name}.onnx"
    model = npdl.import_onnx(path)
    for n, t in ((3, 6), (1, 1)):
        x = np.random.default_rng(n).normal(size=(n, t, 3)).astype(np.float32)
        (y,) = session(path).run(None, {"x": x.swapaxes(0, 1) if turned else x})
        z = model.predict(x)
        y = y.swapaxes(0, 1) if turned and z.ndim == 3 else y
        np.testing.assert_allclose(z, y, rtol=1e-5, atol=1e-5)


def test_damaged_recurrent_networks_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    for path in sorted(GOLDEN.glob("*.onnx")):
        mutate(tmp_path / "m.onnx", path.read_bytes(), rng, 40)


def session(path):
    return pytest.importorskip("onnxruntime").InferenceSession(path)


#: Of a node with N samples, T steps, D numbers, U units.
N, T, D, U = 3, 5, 4, 2


def node_file(tmp_path, op, inputs, outputs, arrays, extra=(), **options):
    """A file with one recurrent node on X (T, N, D) and what is in `extra`, name: kind, shape."""
    info = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node(op, inputs, outputs, hidden_size=U, **options)
    first = [info("X", 1, [T, "N", D]), *(info(n, k, s) for n, (k, s) in dict(extra).items())]
    last = [info(name, 1, None) for name in outputs if name]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph([node], "g", first, last, tensors)
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "r.onnx")
    return tmp_path / "r.onnx"


def weights_of(gates, rng, both=1):
    shapes = {"W": (both, gates * U, D), "R": (both, gates * U, U), "B": (both, 2 * gates * U)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("op, gates, options", [
    ("RNN", 1, {"activations": ["LeakyRelu"], "activation_alpha": [0.3]}),
    ("RNN", 1, {"activations": ["Affine"], "activation_alpha": [1.0], "activation_beta": [0.0]}),
    ("GRU", 3, {}), ("GRU", 3, {"linear_before_reset": 1}),
    ("GRU", 3, {"activations": ["HardSigmoid", "Softsign"], "activation_alpha": [1 / 6],
                "activation_beta": [0.5]}),
    ("LSTM", 4, {}), ("LSTM", 4, {"activations": ["Sigmoid", "Relu", "Relu"]}),
    ("LSTM", 4, {"direction": "bidirectional"}),
])  # fmt: skip
def test_a_recurrent_node(op, gates, options, tmp_path):
    rng = np.random.default_rng(0)
    arrays = weights_of(gates, rng, 1 + ("direction" in options))
    outputs = ["Y", "Y_h", "Y_c"][: 3 if op == "LSTM" else 2]
    path = node_file(tmp_path, op, ["X", "W", "R", "B"], outputs, arrays, **options)
    x = rng.normal(size=(N, T, D)).astype(np.float32)
    wanted = session(path).run(None, {"X": x.swapaxes(0, 1)})
    found = npdl.import_onnx(path).predict(x)
    for name, y in zip(outputs, wanted):
        y = y.transpose(2, 0, 1, 3) if name == "Y" else y.swapaxes(0, 1)
        np.testing.assert_allclose(found[name].reshape(y.shape), y, rtol=1e-5, atol=1e-5)


def test_lengths_are_a_mask_and_first_states_inputs(tmp_path):
    rng = np.random.default_rng(0)
    inputs = ["X", "W", "R", "B", "lengths", "h", "c"]
    extra = {"lengths": (6, ["N"]), "h": (1, [1, "N", U]), "c": (1, [1, "N", U])}
    path = node_file(tmp_path, "LSTM", inputs, ["", "Y_h"], weights_of(4, rng), extra)
    model = npdl.import_onnx(path)
    assert model.input_names == ["X", "h", "c"]
    x, lengths = rng.normal(size=(N, T, D)).astype(np.float32), np.array([5, 1, 3], np.int32)
    h, c = rng.normal(size=(2, N, U)).astype(np.float32)
    feeds = {"X": x.swapaxes(0, 1), "lengths": lengths, "h": h[None], "c": c[None]}
    (y,) = session(path).run(None, feeds)
    mask = np.arange(T) < lengths[:, None]
    z = model.predict({"X": (x, mask), "h": h, "c": c})
    np.testing.assert_allclose(z, y[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op, options, change, message", [
    ("LSTM", {"clip": 3.0}, {}, "clip=3.0"), ("LSTM", {"input_forget": 1}, {}, "input_forget=1"),
    ("LSTM", {}, {"P": np.ones((1, 3 * U), np.float32)}, "Peepholes"),
    ("LSTM", {}, {"h": np.ones((1, 1, U), np.float32)}, "constant first state must be 0"),
    ("LSTM", {}, {"lengths": np.array([5, 1], np.int32)}, "`sequence_lens` must be an input"),
    ("LSTM", {}, {"W": np.ones((1, 3, D), np.float32)}, "shapes of the weights do not fit"),
    ("LSTM", {}, {"B": np.ones((1, 3), np.float32)}, "shape of the bias does not fit"),
    ("LSTM", {"direction": "bidirectional"}, {}, "shapes of the weights do not fit"),
    ("LSTM", {"direction": "reverse"}, {}, "order of processing"),
    ("LSTM", {"activations": ["Sigmoid", "Tanh", "Relu"]}, {}, "same activation"),
    ("RNN", {"activations": ["ScaledTanh"]}, {}, "no such activation"),
    ("LSTM", {"activations": ["Tanh"]}, {}, "must have its activations"),
])  # fmt: skip
def test_recurrent_nodes_that_no_layer_computes(op, options, change, message, tmp_path):
    arrays = weights_of(4 if op == "LSTM" else 1, np.random.default_rng(0)) | change
    inputs = [n if n in arrays or n == "X" else "" for n in ("X", *"WRB", "lengths", *"hcP")]
    path = node_file(tmp_path, op, inputs, ["Y"], arrays, **options)
    with pytest.raises(ValueError, match=message) as caught:
        npdl.import_onnx(path)
    assert "node='Y'" in str(caught.value) and f"op='{op}'" in str(caught.value)


# ------------------------------------------------------------------------ arrays in other files


def test_arrays_in_a_file_beside_it(tmp_path):
    rng = np.random.default_rng(0)
    w = rng.normal(size=(3, 4)).astype(np.float32)
    path = written(tmp_path, [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": w})
    made = onnx.load(path)
    options = {"save_as_external_data": True, "size_threshold": 0, "location": "sub/w.bin"}
    (tmp_path / "sub").mkdir()
    onnx.save(made, path, **options)
    agrees(npdl.import_onnx(path), path, rng.normal(size=(5, 3)).astype(np.float32))
    good = onnx.load(path, load_external_data=False)
    (tmp_path.parent / "w.bin").write_bytes(w.tobytes())
    (tmp_path / "link.bin").symlink_to(tmp_path.parent / "w.bin")
    for change, message in [
        ({"location": "../w.bin"}, "in a file of its folder"),
        ({"location": str(tmp_path / "sub" / "w.bin")}, "in a file of its folder"),
        ({"location": "link.bin"}, "in a file of its folder"),
        ({"location": "none.bin"}, "in a file of its folder"),
        ({"location": "sub"}, "in a file of its folder"),
        ({"offset": "8"}, "must have 48 bytes"),
        ({"offset": "-4"}, "must have 48 bytes"),
        ({"length": "40"}, "must have 48 bytes"),
        ({"dims": [1 << 20, 1 << 20]}, "must have 4398046511104 bytes"),
    ]:
        bad = onnx.ModelProto.FromString(good.SerializeToString())
        tensor = bad.graph.initializer[0]
        tensor.dims[:] = change.pop("dims", tensor.dims)
        known = {entry.key: entry.value for entry in tensor.external_data} | change
        del tensor.external_data[:]
        for key, value in known.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        path.write_bytes(bad.SerializeToString())
        with pytest.raises(ValueError, match=message):
            npdl.import_onnx(path)


def test_a_huge_array_of_zeros_takes_no_memory(tmp_path):
    shape = np.array([1 << 40, 1 << 20], np.int64)
    nodes = [
        onnx.helper.make_node("ConstantOfShape", ["shape"], ["z"]),
        onnx.helper.make_node("Add", ["x", "z"], ["y"]),
    ]
    with pytest.raises(ValueError, match=r"can't compute with sizes.*op='Add'"):
        npdl.import_onnx(written(tmp_path, nodes, {"shape": shape}))
