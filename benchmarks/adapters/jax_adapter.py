"""JAX: the step as one jitted function of the parameters, which are donated; ``scan`` over time."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import workloads as wl
from benchmarks.adapters import Adapter, Arrays

ACTS = {"relu": jax.nn.relu, "tanh": jnp.tanh}
ACTS |= dict.fromkeys(("linear", "softmax", "sigmoid"), lambda x: x)  # the loss takes the logits

IMAGES = ("NHWC", "HWIO", "NHWC")
STEPS_LAST = ("NHC", "HIO", "NHC")


def pool(x, kind: str, size: int):
    window = (1, size, size, 1)
    if kind == "max":
        return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
    return lax.reduce_window(x, 0.0, lax.add, window, window, "VALID") / size**2


def rnn_step(w_h, state, xw):
    h = jnp.tanh(xw + state @ w_h)
    return h, h


def lstm_step(w_h, state, xw):
    h, c = state
    z = xw + h @ w_h
    i, f, o, g = jnp.split(z, 4, axis=1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def gru_step(w_h, state, xw):
    units = state.shape[1]
    zr = jax.nn.sigmoid(xw[:, : 2 * units] + state @ w_h[:, : 2 * units])
    z, r = zr[:, :units], zr[:, units:]
    hat = jnp.tanh(xw[:, 2 * units :] + (state * r) @ w_h[:, 2 * units :])
    state = (1 - z) * hat + z * state
    return state, state


HOIST_UP_TO = 128
STEPS = {"rnn": rnn_step, "lstm": lstm_step, "gru": gru_step}


def recurrent(x, w, kind: str, units: int, every: bool):
    """A scan over time, with the input product inside or before it, depending on the speed."""
    n_in = x.shape[2]
    bias, w_x, w_h = w[0], w[1 : 1 + n_in], w[1 + n_in :]
    zero = jnp.zeros((len(x), units), x.dtype)
    start = (zero, zero) if kind == "lstm" else zero
    rows, one = x.swapaxes(0, 1), STEPS[kind]
    if units > HOIST_UP_TO:
        _, h = lax.scan(lambda state, row: one(w_h, state, row @ w_x + bias), start, rows)
    else:
        _, h = lax.scan(lambda state, xw: one(w_h, state, xw), start, rows @ w_x + bias)
    return h.swapaxes(0, 1) if every else h[-1]


def bidirectional(x, weights, mask, units: int):
    """Two scans over the steps; masked steps keep the state, whose output is not used."""

    def masked(w_h, state, given):
        xw, real = given
        after, h = lstm_step(w_h, state, xw)
        return jax.tree.map(lambda new, old: jnp.where(real, new, old), after, state), h

    zero, rows = jnp.zeros((len(x), units), x.dtype), mask.T[:, :, None]
    outputs = []
    for w, reverse in zip(weights, (False, True)):
        n_in = x.shape[2]
        bias, w_x, w_h = w[0], w[1 : 1 + n_in], w[1 + n_in :]
        xw = x.swapaxes(0, 1) @ w_x + bias
        walk = partial(masked, w_h)
        _, h = lax.scan(walk, (zero, zero), (xw, rows), reverse=reverse)
        outputs.append(h.swapaxes(0, 1))
    return jnp.concatenate(outputs, axis=-1)


def translate(tokens, weights):
    """Encoder, decoder and additive attention, see `workloads`."""
    source, target, encoder, decoder, w_query, w_key, scale = weights
    units = len(scale)

    def walk(w, x, state):
        bias, bias_h, w_x, w_h = w[0], w[1], w[2:-units], w[-units:]

        def step(state, xw):
            hw = state @ w_h + bias_h
            z, r = jnp.split(jax.nn.sigmoid((xw + hw)[:, : 2 * units]), 2, axis=1)
            hat = jnp.tanh(xw[:, 2 * units :] + r * hw[:, 2 * units :])
            state = (1 - z) * hat + z * state
            return state, state

        last, h = lax.scan(step, state, x.swapaxes(0, 1) @ w_x + bias)
        return last, h.swapaxes(0, 1)

    zero = jnp.zeros((len(tokens), units), scale.dtype)
    last, encoded = walk(encoder, source[tokens[:, 0]], zero)
    _, decoded = walk(decoder, target[tokens[:, 1]], last)
    summed = (decoded @ w_query)[:, :, None] + (encoded @ w_key)[:, None]
    read = jax.nn.softmax(jnp.tanh(summed) @ scale) @ encoded
    return jnp.concatenate([decoded, read], axis=-1)


def attend(x, weights, heads: int):
    """Multi-head attention of a sequence to itself."""
    *matrices, w_out, biases = weights
    q, k, v = ((x @ w + b).reshape(*x.shape[:2], heads, -1) for w, b in zip(matrices, biases[:3]))
    read = jax.nn.dot_product_attention(q, k, v)
    return read.reshape(x.shape) @ w_out + biases[3]


class Network:
    """A workload as a function of its parameters.

    In training, `run` also returns the parameters with new running statistics.
    """

    def __init__(self, workload: wl.Workload, train: bool) -> None:
        self.layers, self.train = workload.layers, train

    def run(self, params, x):
        """The logits, and the parameters with the running statistics after the batch."""
        self.params, self.after = iter(params), []
        self.mask = x != 0 if x.ndim == 2 else None
        return self.chain(self.layers, x), self.after

    def chain(self, chain, x):
        for layer in chain:
            match layer:
                case wl.Residual(body, shortcut, act):
                    y = self.chain(body, x)
                    x = ACTS[act](y + self.chain(shortcut, x))
                case wl.Parallel(branches):
                    x = jnp.concatenate([self.chain(branch, x) for branch in branches], axis=-1)
                case _:
                    weights = next(self.params)
                    self.after.append(weights)
                    x = self.leaf(layer, weights, x)
        return x

    def leaf(self, layer: wl.Layer, weights, x):
        match layer:
            case wl.Dense(_, act):
                return ACTS[act](x @ weights[0] + weights[1])
            case wl.Conv(_, _, act, _, stride, groups):
                pads = ((layer.pad, layer.pad),) * 2
                how = {"dimension_numbers": IMAGES, "feature_group_count": groups}
                y = lax.conv_general_dilated(x, weights[0], (stride, stride), pads, **how)
                return ACTS[act](y + weights[1] if layer.bias else y)
            case wl.Conv1(_, _, act, _, dilation):
                how = {"dimension_numbers": STEPS_LAST, "rhs_dilation": (dilation,)}
                y = lax.conv_general_dilated(x, weights[0], (1,), ((layer.before, 0),), **how)
                return ACTS[act](y + weights[1])
            case wl.Deconv(_, size, act, stride):
                y = lax.conv_transpose(
                    x, weights[0], (stride, stride), "SAME", transpose_kernel=True
                )
                return ACTS[act](y + weights[1])
            case wl.Pool(kind, size):
                return pool(x, kind, size)
            case wl.GlobalPool(kind):
                axes = (1, 2) if x.ndim == 4 else 1
                return x.mean(axes) if kind == "mean" else x.max(axes)
            case wl.Rnn(kind, units, every):
                return recurrent(x, weights[0], kind, units, every)
            case wl.BiLstm(units, depth):
                for i in range(depth):
                    x = bidirectional(x, weights[2 * i : 2 * i + 2], self.mask, units)
                return x
            case wl.Translator():
                return translate(x, weights)
            case wl.Embedding():
                return weights[0][x]
            case wl.Position():
                return x + weights[0]
            case wl.SelfAttention(heads):
                return attend(x, weights, heads)
            case wl.LayerNorm():
                mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
                return (x - mean) * lax.rsqrt(var + layer.epsilon) * weights[0] + weights[1]
            case wl.BatchNorm(act):
                return ACTS[act](self.batch_norm(layer, weights, x))
        return x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # flattened in the order N C H W

    def batch_norm(self, layer: wl.BatchNorm, weights, x):
        gamma, beta, mean, var = weights
        if self.train:
            old, axes = (mean, var), (0, 1, 2)
            mean, var = x.mean(axes), x.var(axes)
            new = (0.9 * kept + 0.1 * lax.stop_gradient(now) for kept, now in zip(old, (mean, var)))
            self.after[-1] = (gamma, beta, *new)
        scale = gamma * lax.rsqrt(var + layer.epsilon)
        return x * scale + (beta - mean * scale)


class JaxAdapter(Adapter):
    def version(self) -> str:
        return f"JAX {jax.__version__}"

    def open(self, workload: wl.Workload, mode: str, reference: bool) -> None:
        def converted(layer: wl.Layer, arrays: Arrays) -> tuple[jax.Array, ...]:
            if isinstance(layer, wl.Conv):  # F C KH KW -> KH KW C F
                arrays = arrays[0].transpose(2, 3, 1, 0), *arrays[1:]
            elif isinstance(layer, wl.Deconv):  # C F KH KW -> KH KW F C
                arrays = arrays[0].transpose(2, 3, 1, 0), arrays[1]
            elif isinstance(layer, wl.Conv1):  # F D K -> K D F
                arrays = arrays[0].transpose(2, 1, 0), arrays[1]
            return tuple(map(jnp.asarray, arrays))

        leaves = [layer for layer, *_ in workload.leaves()]
        self.params = [*map(converted, leaves, workload.weights())]
        x, y = workload.data()
        self.x = jnp.asarray(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x)
        if workload.autoencoder:
            self.y = self.x
        else:
            self.y = jnp.asarray(y.reshape(-1), jnp.int32)
        network = Network(workload, mode == "train")

        def loss(params, x, y):
            z, after = network.run(params, x)
            if workload.autoencoder:
                return (jnp.logaddexp(z, 0) - y * z).mean(), after
            logp = jax.nn.log_softmax(z).reshape(-1, z.shape[-1])
            picked = jnp.take_along_axis(logp, y[:, None], axis=1)[:, 0]
            if workload.masks:
                real = (x != 0).reshape(-1)
                return -jnp.where(real, picked, 0).sum() / real.sum(), after
            return -picked.mean(), after

        def step(params, x, y):
            (value, after), grads = jax.value_and_grad(loss, has_aux=True)(params, x, y)
            return jax.tree.map(lambda p, g: p - wl.LEARNING_RATE * g, after, grads), value

        def predict(params, x):
            z, _ = network.run(params, x)
            return jax.nn.sigmoid(z) if workload.autoencoder else jax.nn.softmax(z)

        self.images = workload.autoencoder
        self._step = jax.jit(step, donate_argnums=0)
        self._predict = jax.jit(predict)

    def step(self) -> jax.Array:
        self.params, loss = jax.block_until_ready(self._step(self.params, self.x, self.y))
        return loss

    def predict(self) -> jax.Array:
        return jax.block_until_ready(self._predict(self.params, self.x))

    def outputs(self) -> np.ndarray:
        y = super().outputs()
        return y.transpose(0, 3, 1, 2) if self.images else y


def create(options: dict[str, str], threads: int) -> Adapter:
    """The adapter; JAX takes the threads that the process is pinned to."""
    return JaxAdapter(options, threads)
