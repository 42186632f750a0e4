"""JAX: the step as one jitted function of the parameters, which are donated; ``scan`` over time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import workloads as wl
from benchmarks.adapters import Adapter

ACTS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "softmax": lambda x: x}  # the loss takes logits


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
    """A scan over time; the input product inside it, or before it, whichever was faster."""
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


def apply(layer: wl.Layer, weights, x):
    match layer:
        case wl.Dense(_, act):
            return ACTS[act](x @ weights[0] + weights[1])
        case wl.Conv(_, _, act, same):
            dims = ("NHWC", "HWIO", "NHWC")
            y = lax.conv_general_dilated(
                x, weights[0], (1, 1), "SAME" if same else "VALID", dimension_numbers=dims
            )
            return ACTS[act](y + weights[1])
        case wl.Pool(kind, size):
            return pool(x, kind, size)
        case wl.Rnn(kind, units, every):
            return recurrent(x, weights[0], kind, units, every)
    return x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # flattened in the order N C H W


class JaxAdapter(Adapter):
    def version(self) -> str:
        return f"JAX {jax.__version__}"

    def open(self, workload: wl.Workload, mode: str, reference: bool) -> None:
        def swap(a: np.ndarray) -> jax.Array:  # F C KH KW -> KH KW C F
            return jnp.asarray(a.transpose(2, 3, 1, 0) if a.ndim == 4 else a)

        self.params = [tuple(map(swap, arrays)) for arrays in workload.weights()]
        x, y = workload.data()
        self.x = jnp.asarray(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x)
        self.y = jnp.asarray(y.reshape(-1), jnp.int32)

        def net(params, x):
            for layer, weights in zip(workload.layers, params):
                x = apply(layer, weights, x)
            return x

        def loss(params, x, y):
            logp = jax.nn.log_softmax(net(params, x))
            logp = logp.reshape(-1, logp.shape[-1])
            return -jnp.take_along_axis(logp, y[:, None], axis=1).mean()

        def step(params, x, y):
            value, grads = jax.value_and_grad(loss)(params, x, y)
            return jax.tree.map(lambda p, g: p - wl.LEARNING_RATE * g, params, grads), value

        self._step = jax.jit(step, donate_argnums=0)
        self._predict = jax.jit(lambda params, x: jax.nn.softmax(net(params, x)))

    def step(self) -> jax.Array:
        self.params, loss = jax.block_until_ready(self._step(self.params, self.x, self.y))
        return loss

    def predict(self) -> jax.Array:
        return jax.block_until_ready(self._predict(self.params, self.x))


def create(options: dict[str, str], threads: int) -> Adapter:
    """The adapter; JAX takes the threads that the process is pinned to."""
    return JaxAdapter(options, threads)
