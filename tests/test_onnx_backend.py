"""ONNX's own tests of the ops that npdl reads: each gives the right numbers, or is refused."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

import npdl

onnx = pytest.importorskip("onnx", reason="needs npdl[onnx]")
runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")

#: The modules of onnx with the cases of the ops in npdl's table. Only these are imported.
MODULES = (
    "add", "averagepool", "batch_normalization", "concat", "conv", "convtranspose", "div",
    "dropout", "elu", "exp", "flatten", "gelu", "hardsigmoid", "layernormalization", "mish", "pad",
    "prelu", "reducemean",
    "gather", "gemm", "globalaveragepool", "globalmaxpool", "gru", "identity",
    "leakyrelu", "logsoftmax", "lstm", "matmul", "max", "maxpool", "mean", "min", "mul", "relu",
    "reshape", "rnn", "selu", "sigmoid", "softmax", "softplus", "softsign", "squeeze", "sub", "sum",
    "tanh", "transpose", "unsqueeze",
)  # fmt: skip

#: What is refused, by the error, and why.
REFUSED = {
    "must have at least 2 axes": "a model of npdl has an axis of samples, and others behind it",
    "one or two axes of windows": "npdl has no windows in three dimensions",
    "The samples must stay on axis 0": "it joins, turns or cuts the axis of samples",
    "not be that of the samples": "it joins along the axis of samples",
    "same shape but on `axis` -": "the same, counted from behind",
    "Flatten.*axis=": "the same: only axis=1 keeps the samples",
    "op='(Log)?Softmax', axis=0": "the sums run over the samples",
    "op='Gemm', transA=1": "the samples are on axis 1",
    "The bias must have a number for each output": "a bias for each sample",
    "The input must be constant, of 2 axes": "matrices with more axes, or without samples",
    "constant must fit the value|slopes must fit a sample": "a constant for each sample",
    "constant array of floats": "whole numbers",
    "as many samples as the others": "an input that is broadcast along the samples",
    "normalized one by one": "normalization over the samples",
    "Only means over": "means along other axes than steps or pixels",
    "Only zeros can be added": "padding with other numbers, or by the names of the axes",
    "approximate=": "GELU by tanh",
    "dilations=": "pooling with gaps",
    "count_include_pad=": "padding that counts, rounded up",
    "Only the first output is known": "the places of the largest values, the mask of dropout",
    "training": "random numbers, or statistics of the batch",
    "op='Gather', axis=1": "some entries of an axis",
    "The axes must have size 1": "a squeezed array with the samples alone",
    "allowzero": "axes of size 0",
    "order of processing": "all steps of a layer that walks backwards",
    "numbers in float64": "a file becomes a model in float32; these cases exceed its range",
    "Peepholes": "npdl's LSTM has none",
}

#: Ops all of whose inputs are computed. Of others it is one, and the rest are weights.
MERGES = {"Add", "Concat", "Max", "Mean", "Min", "Mul", "Sub", "Sum"}


def node_cases(monkeypatch):
    """The cases that onnx makes in memory: name, graph, inputs, outputs or None."""
    from onnx.backend.test.case import node
    from onnx.reference.ops import op_pool_common

    # ONNX's pooling is a loop in Python that takes seconds: compare with ONNX Runtime instead.
    monkeypatch.setattr(op_pool_common, "pool", lambda x, *args, **kwargs: x, raising=False)
    for module in MODULES:
        importlib.import_module(f"onnx.backend.test.case.node.{module}")
    for case in node._NodeTestCases:
        if "_expanded" not in case.name:
            xs, ys = case.data_sets[0]
            pooled = case.model.graph.node[0].op_type in ("AveragePool", "MaxPool")
            yield case.name, case.model, xs, None if pooled else ys


def file_cases():
    """Those that PyTorch has exported, which come with onnx as files."""
    from onnx.backend import test

    for path in sorted((Path(test.__file__).parent / "data").glob("pytorch-*/*/model.onnx")):
        arrays = [
            [array(file) for file in sorted(path.parent.glob(f"test_data_set_0/{kind}_*.pb"))]
            for kind in ("input", "output")
        ]
        yield path.parent.name, onnx.load(path), *arrays


def array(file):
    tensor = onnx.TensorProto.FromString(file.read_bytes())
    return np.array(onnx.numpy_helper.to_array(tensor))


def outcome(model, xs, ys, path):
    """None where npdl's numbers are right, else what is wrong; or the error of a refusal."""
    made, node = onnx.ModelProto.FromString(model.SerializeToString()), model.graph.node[0]
    there = {tensor.name for tensor in made.graph.initializer}
    names = [info.name for info in made.graph.input if info.name not in there]
    feeds = {name: np.asarray(x) for name, x in zip(names, xs)}
    merged = node.op_type in MERGES or (node.op_type == "MatMul" and np.ndim(xs[-1]) > 2)
    if len(made.graph.node) == 1 and not merged:
        computed = node.input[node.op_type == "Gather"]
        made.graph.initializer.extend(
            onnx.numpy_helper.from_array(feeds[name], name) for name in names if name != computed
        )
    path.write_bytes(made.SerializeToString())
    try:
        found = npdl.import_onnx(path)
    except ValueError as error:
        return str(error)
    if ys is None:
        quiet = runtime.SessionOptions()
        quiet.log_severity_level = 3
        ys = runtime.InferenceSession(model.SerializeToString(), quiet).run(None, feeds)
    inputs = [feeds[name] for name in found.input_names]
    if any(x.dtype == np.float64 for x in inputs):
        return "numbers in float64"
    if recurrent := node.op_type in ("RNN", "GRU", "LSTM"):
        layout = any(a.name == "layout" and a.i for a in node.attribute)
        inputs = [x if layout else x.swapaxes(0, 1) for x in inputs]
        ys = [samples_first(y, layout) for y in ys]
    z = found.predict(inputs[0] if len(inputs) == 1 else inputs)
    zs = [*z.values()] if isinstance(z, dict) else [z]
    for y, z in zip(ys, zs):
        z = z.reshape(y.shape) if recurrent else z
        if z.shape != y.shape or not np.allclose(z, y, rtol=1e-3, atol=1e-5):
            return f"wrong numbers, shapes {z.shape} and {y.shape}"
    return None


def samples_first(y, layout):
    """An output (T, directions, N, U), or (directions, N, U), as (N, T, directions, U)."""
    if layout:
        return y
    return y.transpose(2, 0, 1, 3) if y.ndim == 4 else y.swapaxes(0, 1)


def test_every_case_is_right_or_refused_for_a_reason(tmp_path, monkeypatch):
    from npdl.onnx._foreign import OPS

    right, wrong = {"node": 0, "pytorch": 0}, {}
    used = set()
    for kind, cases in (("node", node_cases(monkeypatch)), ("pytorch", file_cases())):
        for name, model, xs, ys in cases:
            if not {node.op_type for node in model.graph.node} <= OPS.keys():
                continue
            said = outcome(model, xs, ys, tmp_path / "m.onnx")
            reason = next((r for r in REFUSED if said and re.search(r, said)), None)
            if said is None:
                right[kind] += 1
            elif reason is None:
                wrong[name] = said
            used.add(reason)
    assert not wrong
    assert right["node"] >= 152 and right["pytorch"] >= 65
    assert used - {None} == REFUSED.keys()
