"""ONNX Runtime: a graph written by hand with the workload's weights in it. Only prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmarks import workloads as wl
from benchmarks.adapters import GATE_ORDER, Adapter, reorder

OPSET, IR_VERSION = 17, 8
OPS = {"relu": "Relu", "tanh": "Tanh", "softmax": "Softmax"}
ORDER = GATE_ORDER["onnx"]


class Graph:
    """Nodes in a chain: each takes what the last one made."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.last = "x"

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, op: str, *arrays: np.ndarray, output: int = 0, **attributes: Any) -> None:
        """Append a node with further inputs; the chain continues from its `output`."""
        out = [f"v{len(self.nodes)}_{i}" if i == output else "" for i in range(output + 1)]
        inputs = [self.last, *map(self.constant, arrays)]
        self.nodes.append(helper.make_node(op, inputs, out, **attributes))
        self.last = out[output]

    def append(self, layer: wl.Layer, arrays: tuple[np.ndarray, ...], n_in: int) -> None:
        """The nodes of one layer."""
        match layer:
            case wl.Dense(_, act):
                self.add("MatMul", arrays[0])
                self.add("Add", arrays[1])
                self.add(OPS[act])
            case wl.Conv(_, size, act, same):
                self.add("Conv", *arrays, pads=[size // 2 if same else 0] * 4)
                self.add(OPS[act])
            case wl.Pool(kind, size):
                op = "MaxPool" if kind == "max" else "AveragePool"
                self.add(op, kernel_shape=[size] * 2, strides=[size] * 2)
            case wl.Flatten():
                self.add("Flatten")
            case wl.Rnn(kind, units, every):
                self.recurrent(kind, units, every, reorder(arrays[0], ORDER[kind]), n_in)

    def recurrent(self, kind: str, units: int, every: bool, w: np.ndarray, n_in: int) -> None:
        """X (T, N, D) gives Y (T, 1, N, U) or Y_h (1, N, U); weights have an axis of directions."""
        bias = np.concatenate([w[0], np.zeros_like(w[0])])
        parts = (a[None] for a in (w[1 : 1 + n_in].T, w[1 + n_in :].T, bias))
        self.add("Transpose", perm=[1, 0, 2])
        self.add(kind.upper(), *parts, output=0 if every else 1, hidden_size=units)
        self.add("Squeeze", np.array([1 if every else 0]))
        if every:
            self.add("Transpose", perm=[1, 0, 2])

    def model(self, shape: tuple[int, ...]) -> bytes:
        """The serialised model for an input of this shape."""
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        y = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "workload", [x], [y], self.constants)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=opset, ir_version=IR_VERSION
        ).SerializeToString()


class OnnxAdapter(Adapter):
    def version(self) -> str:
        return f"ONNX Runtime {ort.__version__}"

    def open(self, workload: wl.Workload, mode: str, reference: bool) -> None:
        self.x, _ = workload.data()
        graph = Graph()
        for (layer, shape, _), arrays in zip(workload.shapes(), workload.weights()):
            graph.append(layer, arrays, shape[-1])
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(
            graph.model(self.x.shape), options, providers=["CPUExecutionProvider"]
        )

    def predict(self) -> np.ndarray:
        return self.session.run(None, {"x": self.x})[0]


def create(options: dict[str, str], threads: int) -> Adapter:
    """The adapter; a session is told its threads when it opens."""
    return OnnxAdapter(options, threads)
