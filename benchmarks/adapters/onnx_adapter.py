"""ONNX Runtime: a graph written by hand with the workload's weights in it. Only prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmarks import workloads as wl
from benchmarks.adapters import GATE_ORDER, Adapter, Arrays, reorder

OPSET, IR_VERSION = 17, 8
OPS = {"relu": "Relu", "tanh": "Tanh", "softmax": "Softmax", "sigmoid": "Sigmoid"}
ORDER = GATE_ORDER["onnx"]


class Graph:
    """Nodes, mostly in a chain: each takes the output of the last one.

    Convolutions of sequences take them as N D T.
    """

    def __init__(self, workload: wl.Workload) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.last, self.lengths = "x", ""
        self._turned = workload.convolves_steps
        self._leaves = zip(workload.leaves(), workload.weights(), strict=True)
        self.chain(workload.layers)

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def add(self, op: str, *inputs: np.ndarray | str, output: int = 0, **attributes: Any) -> str:
        """Append a node with further inputs; the chain continues from its `output`."""
        out = [f"v{len(self.nodes)}_{i}" if i == output else "" for i in range(output + 1)]
        names = [a if isinstance(a, str) else self.constant(a) for a in inputs]
        self.nodes.append(helper.make_node(op, [self.last, *names], out, **attributes))
        self.last = out[output]
        return self.last

    def chain(self, chain: tuple[wl.Layer, ...]) -> None:
        """The nodes of some layers."""
        for layer in chain:
            start = self.last
            match layer:
                case wl.Residual(body, shortcut, act):
                    self.chain(body)
                    through, self.last = self.last, start
                    self.chain(shortcut)
                    self.add("Add", through)
                    self.activate(act)
                case wl.Parallel(branches):
                    made = []
                    for branch in branches:
                        self.last = start
                        self.chain(branch)
                        made.append(self.last)
                    self.last, *others = made
                    self.add("Concat", *others, axis=-1)
                case _:
                    (leaf, shape, *_), arrays = next(self._leaves)
                    self.append(leaf, arrays, shape)

    def activate(self, act: str) -> None:
        """An activation."""
        if act != "linear":
            self.add(OPS[act])

    def append(self, layer: wl.Layer, arrays: Arrays, shape: tuple[int, ...]) -> None:
        """The nodes of one leaf."""
        match layer:
            case wl.Dense(_, act):
                if self._turned and len(shape) == 2:
                    self.add("Transpose", perm=[0, 2, 1])
                    self._turned = False
                self.dense(arrays[0], arrays[1])
                self.activate(act)
            case wl.Conv(_, _, act, _, stride, groups):
                how = {"pads": [layer.pad] * 4, "strides": [stride] * 2, "group": groups}
                self.add("Conv", *arrays, **how)
                self.activate(act)
            case wl.Conv1(_, _, act, _, dilation):
                self.add("Conv", *arrays, pads=[layer.before, 0], dilations=[dilation])
                self.activate(act)
            case wl.Deconv(_, _, act, stride):
                self.add("ConvTranspose", *arrays, pads=[layer.pad] * 4, strides=[stride] * 2)
                self.activate(act)
            case wl.Pool(kind, size):
                op = "MaxPool" if kind == "max" else "AveragePool"
                self.add(op, kernel_shape=[size] * 2, strides=[size] * 2)
            case wl.GlobalPool(kind):
                if len(shape) == 3 or self._turned:
                    self.add("GlobalMaxPool" if kind == "max" else "GlobalAveragePool")
                    self.add("Flatten")
                else:
                    op = "ReduceMax" if kind == "max" else "ReduceMean"
                    self.add(op, axes=[1], keepdims=0)
            case wl.Flatten():
                self.add("Flatten")
            case wl.Rnn(kind, units, every):
                w = reorder(arrays[0], ORDER[kind])
                self.steps_first()
                self.add(
                    kind.upper(),
                    *cell(w, shape[-1]),
                    output=0 if every else 1,
                    hidden_size=units,
                )
                self.add("Squeeze", np.array([1 if every else 0]))
                if every:
                    self.steps_first()
            case wl.BiLstm(units, depth):
                self.steps_first()
                for i in range(depth):
                    pair = [reorder(w, ORDER["lstm"]) for w in arrays[2 * i : 2 * i + 2]]
                    parts = [cell(w, len(w) - 1 - units) for w in pair]
                    both = [np.concatenate(halves) for halves in zip(*parts)]
                    how = {"hidden_size": units, "direction": "bidirectional"}
                    self.add("LSTM", *both, self.lengths, **how)
                    # T 2 N U -> T N 2U
                    self.add("Transpose", perm=[0, 2, 1, 3])
                    self.add("Reshape", np.array([0, 0, -1]))
                self.steps_first()
            case wl.Translator():
                self.translate(layer, arrays)
            case wl.Embedding(masks=masks):
                if masks:
                    self.measure()
                tokens, self.last = self.last, self.constant(arrays[0])
                self.add("Gather", tokens)
            case wl.Position():
                self.add("Add", arrays[0])
            case wl.SelfAttention(heads):
                self.attend(arrays, shape, heads)
            case wl.LayerNorm():
                self.add("LayerNormalization", *arrays, epsilon=layer.epsilon)
            case wl.BatchNorm(act):
                self.add("BatchNormalization", *arrays, epsilon=layer.epsilon)
                self.activate(act)

    def dense(self, w: np.ndarray, b: np.ndarray | None = None) -> str:
        """A product, and a bias."""
        self.add("MatMul", w)
        return self.last if b is None else self.add("Add", b)

    def steps_first(self) -> None:
        """From N T D to T N D, or back."""
        self.add("Transpose", perm=[1, 0, 2])

    def measure(self) -> None:
        """The lengths of the sequences of tokens before their padding."""
        tokens = self.last
        self.add("Cast", to=TensorProto.BOOL)
        self.add("Cast", to=TensorProto.INT32)
        self.lengths = self.add("ReduceSum", np.array([1]), keepdims=0)
        self.last = tokens

    def attend(self, arrays: Arrays, shape: tuple[int, ...], heads: int) -> None:
        """Multi-head attention of a sequence to itself."""
        *inputs, output, biases = arrays
        start, parts = self.last, []
        size = shape[1] // heads
        inputs[0], bias = inputs[0] / np.sqrt(size), biases[0] / np.sqrt(size)
        for i, w in enumerate(inputs):
            self.last = start
            self.dense(np.float32(w), np.float32(biases[i] if i else bias))
            self.add("Reshape", np.array([0, 0, heads, size]))
            parts.append(self.add("Transpose", perm=[0, 2, 3, 1] if i == 1 else [0, 2, 1, 3]))
        self.last = parts[0]
        self.add("MatMul", parts[1])
        self.add("Softmax", axis=-1)
        self.add("MatMul", parts[2])
        self.add("Transpose", perm=[0, 2, 1, 3])
        self.add("Reshape", np.array([0, 0, shape[1]]))
        self.dense(output, biases[3])

    def translate(self, layer: wl.Translator, arrays: Arrays) -> None:
        """Encoder, decoder and additive attention, see `workloads`."""
        source, target, encoder, decoder, w_query, w_key, scale = arrays
        how = {"hidden_size": layer.units, "linear_before_reset": 1}
        rows = [self.token_rows(i) for i in (0, 1)]
        states, state = [], ""
        for tokens, table, w in zip(rows, (source, target), (encoder, decoder)):
            self.last = self.constant(table)
            self.add("Gather", tokens)
            self.steps_first()
            name = f"gru{len(states)}"
            weights = map(self.constant, cell(reorder(w, ORDER["gru"]), layer.width, 2))
            inputs = [self.last, *weights, "", state]
            self.nodes.append(helper.make_node("GRU", inputs, [name, f"{name}_h"], **how))
            self.last, state = name, f"{name}_h"
            self.add("Squeeze", np.array([1]))
            self.steps_first()
            states.append(self.last)
        self.last = states[0]
        self.dense(w_key)
        key = self.add("Unsqueeze", np.array([1]))
        self.last = states[1]
        self.dense(w_query)
        self.add("Unsqueeze", np.array([2]))
        self.add("Add", key)
        self.add("Tanh")
        self.add("MatMul", scale)
        self.add("Softmax", axis=-1)
        read = self.add("MatMul", states[0])
        self.last = states[1]
        self.add("Concat", read, axis=-1)

    def token_rows(self, which: int) -> str:
        """The tokens of the source, or of the target."""
        self.last = "x"
        return self.add("Gather", np.array(which), axis=1)

    def model(self, shape: tuple[int, ...], tokens: bool) -> bytes:
        """The serialised model for an input of this shape."""
        kind = TensorProto.INT64 if tokens else TensorProto.FLOAT
        x = helper.make_tensor_value_info("x", kind, shape)
        y = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "workload", [x], [y], self.constants)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=opset, ir_version=IR_VERSION
        ).SerializeToString()


def cell(w: np.ndarray, n_in: int, n_biases: int = 1) -> Arrays:
    """W, R and B of a recurrent node, which have an axis of directions."""
    second = w[1] if n_biases == 2 else np.zeros_like(w[0])
    parts = w[n_biases : n_biases + n_in].T, w[n_biases + n_in :].T, np.concatenate([w[0], second])
    return tuple(a[None] for a in parts)


class OnnxAdapter(Adapter):
    def version(self) -> str:
        return f"ONNX Runtime {ort.__version__}"

    def open(self, workload: wl.Workload, mode: str, reference: bool) -> None:
        self.x, _ = workload.data()
        if workload.convolves_steps:
            self.x = np.ascontiguousarray(self.x.swapaxes(1, 2))
        graph = Graph(workload)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        model = graph.model(self.x.shape, tokens=workload.tokens > 0)
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def predict(self) -> np.ndarray:
        return self.session.run(None, {"x": self.x})[0]


def create(options: dict[str, str], threads: int) -> Adapter:
    """The adapter; a session is told its threads when it opens."""
    return OnnxAdapter(options, threads)
