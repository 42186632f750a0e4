"""Write results of Keras and PyTorch for attention: ``attention_*.json``.

    KERAS_BACKEND=torch python tests/golden/make_attention.py keras
    python tests/golden/make_attention.py torch

Each needs its library, at the version that the file names. The suite only reads the files. All
numbers are float64, the weights in npdl's layout.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

N, TQ, TK, D, E, HEADS = 2, 3, 4, 4, 3, 2
Q_MASK = [[1, 1, 0], [1, 1, 1]]
V_MASK = [[1, 0, 1, 1], [1, 1, 0, 0]]  # each causal step has a key: without one, libraries give NaN


def numbers(*shape, seed):
    return np.random.default_rng(seed).uniform(-1, 1, shape).round(3)


def shapes_of(one):
    """The shapes of the parameters, in npdl's order."""
    if one["layer"] == "Attention":
        return [(D,)] if one["kwargs"]["score"] == "additive" else []
    keys, values = (HEADS * one["kwargs"].get(k, 2) for k in ("key_size", "value_size"))
    weights = [(D, keys), (D, keys), (E, values), (values, D)]
    if not one["kwargs"].get("use_bias", True):
        return weights
    return [shape for w in weights for shape in (w, w[1:])]


def case(layer, kwargs, masks):
    """A case without its results: query, value and key are drawn with fixed seeds."""
    one = {"layer": layer, "kwargs": kwargs, "masks": masks}
    one["weights"] = [numbers(*s, seed=10 + i).tolist() for i, s in enumerate(shapes_of(one))]
    inputs = numbers(N, TQ, D, seed=1), numbers(N, TK, E, seed=2), numbers(N, TK, D, seed=3)
    return {**one, "inputs": [x.tolist() for x in inputs]}


def gradient(y, one):
    """Zero the masked steps, whose values differ between libraries."""
    dy = numbers(*y.shape, seed=4)
    return dy if one["masks"][0] is None else dy * np.array(one["masks"][0])[..., None]


def results(y, dy, inputs, grads):
    found = {"y": y.detach().numpy(), "dy": dy}
    found = {name: np.round(array, 10).tolist() for name, array in found.items()}
    dxs = [np.round(x.grad.numpy(), 10).tolist() for x in inputs]
    return {**found, "dxs": dxs, "grads": [np.round(g, 10).tolist() for g in grads]}


def keras_cases():
    for masks in [[None, None], [None, V_MASK], [Q_MASK, V_MASK]]:
        for causal in (False, True):
            for score in ("dot", "additive"):
                yield case("Attention", {"score": score, "causal": causal}, masks)
            heads = {"heads": HEADS, "key_size": 2, "causal": causal}
            yield case("MultiHeadAttention", {**heads, "value_size": 3}, masks)
            yield case("MultiHeadAttention", {**heads, "use_bias": False, "value_size": 2}, masks)


def keras_result(one):
    import keras
    import torch

    kwargs = one["kwargs"]
    inputs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in one["inputs"]]
    masks = [None if m is None else torch.tensor(m, dtype=torch.bool) for m in one["masks"]]
    weights = list(map(np.array, one["weights"]))
    if one["layer"] == "Attention":
        additive = kwargs["score"] == "additive"
        cls = keras.layers.AdditiveAttention if additive else keras.layers.Attention
        layer = cls(dtype="float64")
        layer.build([x.shape for x in inputs])
        layer.set_weights(weights)
        y = layer(inputs, mask=[*masks, None], use_causal_mask=kwargs["causal"])
    else:
        bias = kwargs.get("use_bias", True)
        layer = keras.layers.MultiHeadAttention(
            HEADS, kwargs["key_size"], kwargs["value_size"], use_bias=bias, dtype="float64"
        )
        layer.build(*(x.shape for x in inputs))
        layer.set_weights([w.reshape(v.shape) for w, v in zip(weights, layer.weights)])
        # With the scores, Keras takes a path that stays in float64.
        y, _ = layer(
            *inputs,
            query_mask=masks[0],
            value_mask=masks[1],
            use_causal_mask=kwargs["causal"],
            return_attention_scores=True,
        )
    dy = gradient(y, one)
    (y * torch.tensor(dy)).sum().backward()
    grads = [v.value.grad.numpy().reshape(w.shape) for v, w in zip(layer.weights, weights)]
    return results(y, dy, inputs, grads)


def torch_cases():
    for masks in [[None, None], [None, V_MASK]]:
        for causal in (False, True):
            for bias in (False, True):
                kwargs = {"heads": HEADS, "key_size": D // HEADS, "causal": causal}
                yield case("MultiHeadAttention", {**kwargs, "use_bias": bias}, masks)


def torch_result(one):
    import torch

    bias, kwargs = one["kwargs"]["use_bias"], {"batch_first": True, "dtype": torch.float64}
    layer = torch.nn.MultiheadAttention(D, HEADS, bias=bias, kdim=D, vdim=E, **kwargs)
    inputs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in one["inputs"]]
    weights = [torch.tensor(w, dtype=torch.float64) for w in one["weights"]]
    found = [layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight, layer.out_proj.weight]
    for parameter, w in zip(found, weights[:: 1 + bias]):
        parameter.data = w.T.contiguous()
    if bias:
        layer.in_proj_bias.data = torch.cat(weights[1:6:2])
        layer.out_proj.bias.data = weights[7]
    query, value, key = inputs
    hidden = None if one["masks"][1] is None else ~torch.tensor(one["masks"][1], dtype=torch.bool)
    later = torch.ones(TQ, TK, dtype=torch.bool).triu(1) if one["kwargs"]["causal"] else None
    y, _ = layer(query, key, value, key_padding_mask=hidden, attn_mask=later)
    dy = gradient(y, one)
    (y * torch.tensor(dy)).sum().backward()
    grads = [p.grad.numpy().T for p in found]
    if bias:
        biases = [*np.split(layer.in_proj_bias.grad.numpy(), 3), layer.out_proj.bias.grad.numpy()]
        grads = [array for pair in zip(grads, biases) for array in pair]
    return results(y, dy, inputs, grads)


def main(library):
    if library == "keras":
        import keras
        from keras.src.backend.common import dtypes

        narrow = dtypes.result_type  # by it a product of float64 is float32
        dtypes.result_type = lambda *types: (
            "float64" if any("float64" in str(t) for t in types) else narrow(*types)
        )
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        cases, result, version = keras_cases(), keras_result, keras.__version__
    else:
        import torch

        cases, result, version = torch_cases(), torch_result, torch.__version__
    found = {"made_by": f"{library} {version}", "cases": [{**one, **result(one)} for one in cases]}
    path = Path(__file__).with_name(f"attention_{library}.json")
    path.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
