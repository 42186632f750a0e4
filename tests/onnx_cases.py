"""Networks of all layers for the tests of ONNX, and the comparison with ONNX Runtime."""

from functools import partial

import numpy as np
import pytest

from npdl import layers as L

runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")

SEQ, IMAGE, FLAT = (None, 5), (3, 9, 8), (7,)


def chain(*layers):
    return lambda x: through(layers, x)


def through(layers, x):
    for layer in layers:
        x = layer(x)
    return x


def lstm(units=4, **options):
    return L.LSTM(units, return_sequence=True, **options)


def rnn_cases():
    for kind in (L.LSTM, L.GRU, L.SimpleRNN, L.BatchLSTM):
        for options in (
            {},
            {"return_sequence": True},
            {"return_sequence": True, "go_backwards": True, "use_bias": False},
            {"activation": "relu", "dropout": 0.5, "return_sequence": True},
        ):
            name = f"{kind.__name__}-{'-'.join(options)}"
            yield name, SEQ, chain(kind(n_out=4, **options))
            yield name + "-masked", SEQ, chain(L.Masking(), kind(n_out=4, **options))
    yield "GRU-reset_after", SEQ, chain(L.GRU(n_out=4, reset_after=True))
    gates = {"gate_activation": "hard_sigmoid", "activation": "soft_sign"}
    yield "LSTM-gates", SEQ, chain(L.LSTM(n_out=4, **gates))
    yield (
        "RNN-leaky",
        SEQ,
        chain(L.SimpleRNN(n_out=4, activation={"name": "leaky_relu", "slope": 0.3})),
    )
    yield "RNN-elu", SEQ, chain(L.SimpleRNN(n_out=4, activation="elu"))
    yield "RNN-linear", SEQ, chain(L.SimpleRNN(n_out=4, activation="linear"))
    for mode in ("concat", "sum", "mul", "ave"):
        for sequence in (True, False):
            for before in ([], [L.Masking()]):
                layer = L.Bidirectional(L.GRU(n_out=3, return_sequence=sequence), mode)
                name = f"Bidirectional-{mode}-{sequence}-{len(before)}"
                yield name, SEQ, chain(*before, layer)


def image_cases():
    for k, (padding, stride, dilation) in enumerate(
        [
            ("valid", 1, 1), ("same", 1, 1), ("same", 2, 1), ("same", (3, 2), 1), ("same", 1, 2),
            (1, 2, 1), (((0, 1), (2, 1)), 1, (1, 2)),
        ]
    ):  # fmt: skip
        options = {"padding": padding, "stride": stride}
        yield (
            f"Convolution-{k}",
            IMAGE,
            chain(L.Convolution(6, (3, 2), groups=3, dilation=dilation, **options)),
        )
        yield (
            f"Separable-{k}",
            IMAGE,
            chain(L.SeparableConvolution(4, 3, dilation=dilation, **options)),
        )
        yield (
            f"Depthwise-{k}",
            IMAGE,
            chain(L.DepthwiseConvolution(3, 2, dilation=dilation, **options)),
        )
        yield (
            f"Transposed-{k}",
            IMAGE,
            chain(L.TransposedConvolution(4, 3, dilation=dilation, **options)),
        )
        yield f"MaxPooling-{k}", IMAGE, chain(L.MaxPooling(3, stride=stride, padding=padding))
        yield f"MeanPooling-{k}", (9, 8), chain(L.MeanPooling(3, stride=stride, padding=padding))
    yield (
        "Transposed-more",
        IMAGE,
        chain(L.TransposedConvolution(4, 3, stride=3, output_padding=(1, 2))),
    )
    yield "Transposed-wide", IMAGE, chain(L.TransposedConvolution(4, 2, stride=3, padding="same"))
    yield (
        "Convolution-softmax",
        IMAGE,
        chain(L.Convolution(4, 3, activation="softmax", use_bias=False)),
    )
    yield "CNN", IMAGE, chain(
        L.Convolution(4, 3, activation="linear"), L.BatchNormal(axis=1), L.ReLU(), L.MaxPooling(2),
        L.Dropout(0.5), L.SpatialDropout(0.5), L.Flatten(), L.Dense(5), L.Softmax(3),
    )  # fmt: skip
    for axis in (0, 1, 2, -1):
        yield f"BatchNormal-{axis}", IMAGE, chain(L.BatchNormal(axis=axis))
    for axis in (-1, 1, (1, 3), (2, 3), (1, 2, 3)):
        yield f"LayerNormalization-{axis}", IMAGE, chain(L.LayerNormalization(axis=axis))
        yield f"RMS-{axis}", IMAGE, chain(L.RMSNormalization(axis=axis))
    for groups, axis in ((1, 1), (3, 1), (-1, 1), (2, 3)):
        yield f"Group-{groups}-{axis}", IMAGE, chain(L.GroupNormalization(groups, axis))
    for method in ("nearest", "bilinear"):
        yield f"UpSampling-{method}", IMAGE, chain(L.UpSampling((2, 3), interpolation=method))
        yield f"UpSampling3-{method}", (9, 8), chain(L.UpSampling((2, 3), interpolation=method))
    yield "ZeroPadding", IMAGE, chain(L.ZeroPadding(((1, 2), (0, 3))))
    yield "Cropping", IMAGE, chain(L.Cropping(((1, 2), (0, 3))))
    yield "GlobalMax", IMAGE, chain(L.GlobalMaxPooling())
    yield "GlobalMean", IMAGE, chain(L.GlobalMeanPooling())
    yield "PReLU", IMAGE, chain(L.PReLU(shared_axes=(2, 3)))
    yield "Reshape", IMAGE, chain(L.Reshape((8, -1)), L.Permute((2, 1)), L.Flatten(2))
    yield "DimShuffle", FLAT, chain(L.DimShuffle(-1), L.Flatten(2), L.RepeatVector(3))
    yield (
        "Residual",
        IMAGE,
        chain(L.Residual([L.Convolution(3, 3, padding="same")], activation="relu")),
    )
    yield "Parallel", IMAGE, chain(L.Parallel([[L.Convolution(3, 1)], []], axis=1))
    yield (
        "Sequence",
        IMAGE,
        chain(L.Sequence([L.Convolution(3, 3, padding="same", stride=2), L.Flatten()])),
    )


def sequence_cases():
    masked = L.Masking
    for k, (padding, stride, dilation) in enumerate(
        [
            ("valid", 1, 1),
            ("same", 1, 2),
            ("same", 2, 1),
            ("causal", 1, 2),
            ("causal", 2, 1),
            ((2, 1), 1, 1),
        ]
    ):
        options = {"padding": padding, "stride": stride, "dilation": dilation}
        yield f"Convolution1D-{k}", SEQ, chain(L.Convolution1D(4, 3, **options))
        yield f"Separable1D-{k}", SEQ, chain(L.SeparableConvolution1D(4, 3, **options))
        yield f"Depthwise1D-{k}", SEQ, chain(L.DepthwiseConvolution1D(3, 2, **options))
        if padding != "causal":
            yield f"Transposed1D-{k}", SEQ, chain(L.TransposedConvolution1D(4, 3, **options))
            pool = {"stride": stride, "padding": padding}
            for kind in (L.MaxPooling1D, L.MeanPooling1D):
                yield f"{kind.__name__}-{k}", SEQ, chain(kind(3, **pool))
                yield f"{kind.__name__}-{k}-masked", SEQ, chain(masked(), kind(3, **pool), lstm())
    for kind in (L.GlobalMaxPooling, L.GlobalMeanPooling):
        yield kind.__name__, SEQ, chain(kind())
        yield kind.__name__ + "-masked", SEQ, chain(masked(), kind())
    yield (
        "Frames",
        SEQ,
        chain(masked(), L.ZeroPadding1D((1, 2)), lstm(), L.Cropping1D((1, 0)), lstm()),
    )
    yield "UpSampling1D", SEQ, chain(masked(), L.UpSampling1D(2), lstm())
    yield "Causal-masked", SEQ, chain(masked(), L.Convolution1D(4, 2, padding="causal"), lstm())
    yield "BatchNormal-masked", SEQ, chain(masked(), L.BatchNormalization(axis=-1))
    yield "BatchNormal-steps", SEQ, chain(L.BatchNormal(axis=-1))
    yield (
        "Steps",
        SEQ,
        chain(L.TimeDistributed(L.Sequence([L.Dense(4), L.Linear(2)])), L.Softmax(3)),
    )
    yield (
        "Images",
        (None, 2, 6, 5),
        chain(L.TimeDistributed(L.Convolution(3, 3)), L.TimeDistributed(L.Flatten()), lstm()),
    )
    yield "Masking-nan", SEQ, chain(L.Masking(float("nan")), lstm())
    yield "GaussianNoise", SEQ, chain(L.GaussianNoise(0.1), L.Dense((2, 3)))
    yield "PReLU1", SEQ, chain(L.PReLU(shared_axes=1), lstm(), L.LayerNormalization())


def attention_cases():
    yield "PositionEmbedding", SEQ, chain(L.PositionEmbedding(12), L.Masking(), L.Dense(3))
    for causal in (False, True):
        sizes = {"value_size": 2, "n_out": 5, "use_bias": False}
        for name, make in {
            **{score: partial(L.Attention, score, causal=causal) for score in SCORES},
            "heads": partial(L.MultiHeadAttention, 2, 3, causal=causal),
            "sizes": partial(L.MultiHeadAttention, 3, 2, causal=causal, **sizes),
        }.items():
            yield f"{name}-{causal}", SEQ, chain(L.Dense(4), make())
            yield f"{name}-{causal}-masked", SEQ, chain(L.Masking(), make(), L.GRU(n_out=3))
            yield f"{name}-{causal}-two", SEQ, two_sides(make)


SCORES = "dot", "scaled_dot", "additive"


def two_sides(make):
    """Separate query and value, each with or without a mask, and with a key too."""

    def build(x):
        a, b, masked = L.Dense(4)(x), L.ZeroPadding1D((1, 0))(L.Dense(4)(x)), L.Masking()(x)
        c = L.Cropping1D((2, 0))(L.Dense(4)(masked))
        d = L.Dense(4)(L.Masking()(x))
        calls = (a, c), (c, b), (a, c, c), (c, b, b), (d, d, a)
        return [make()(*inputs) for inputs in calls]

    return build


def graph_cases():
    yield "merges", FLAT, lambda x: L.Concatenate(-1)([
        kind()([L.Dense(4)(x), L.Dense(4)(x)])
        for kind in (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum)
    ])  # fmt: skip
    yield "dot", SEQ, lambda x: L.Dot(2, normalize=True)([L.Dense(4)(x), L.Dense(4)(x)])
    yield "dot-2", FLAT, lambda x: L.Dot(1)([L.Dense(4)(x), L.Dense(4)(x)])

    def encoder(x):
        x = L.Masking()(x)
        y, h, c = L.LSTM(n_out=4, return_sequence=True, return_state=True)(x)
        return L.LSTM(n_out=4, return_sequence=True)(y, initial_state=(h, c))

    def backwards(x):
        _, h = L.GRU(n_out=4, return_state=True)(x)
        x = L.Masking()(x)
        return L.GRU(n_out=4, return_sequence=True, go_backwards=True)(x, initial_state=(h,))

    def shared(x):
        dense = L.Dense(5)
        return L.Add()([dense(dense(x)), x])

    def both(x):
        ys = L.Bidirectional(L.LSTM(n_out=3, return_sequence=True, return_state=True), None)(x)
        return L.Concatenate(-1)([*ys[:2]])

    def union(x):
        a = L.Masking()(x)
        return lstm()(L.Concatenate(1)([L.Add()([a, L.Dense(5)(a)]), L.Dense(5)(x)]))

    yield from ((f.__name__, SEQ, f) for f in (encoder, backwards, shared, both, union))


CASES = [*rnn_cases(), *image_cases(), *sequence_cases(), *attention_cases(), *graph_cases()]
ACTIVATIONS = [
    *(
        "sigmoid",
        "tanh",
        "relu",
        "linear",
        "soft_plus",
        "soft_sign",
        "selu",
        "gelu",
        "silu",
        "mish",
    ),
    *("hard_sigmoid", "hard_tanh", "exponential", "softmax", "log_softmax", "elu", "leaky_relu"),
    *({"name": name, "steepness": 1.7} for name in ("elliot", "symmetric_elliot")),
    {"name": "softmax", "axis": 1},
]


def data(shape, rng, n=3, steps=6):
    x = rng.normal(size=(n, *(steps if size is None else size for size in shape)))
    x = x.astype(np.float32)
    if len(shape) > 1 and shape[0] is None:
        x[0, 4:] = x[1, :2] = x[2, 1] = 0  # right, left and inner padding
        if n > 3:
            x[3] = 0
    return x


def randomized(model, rng):
    """Weights, scales and running statistics that are no longer 0 and 1."""
    for name, array in model.weights.items():
        if "W" not in name.rpartition("/")[2]:
            array[...] = rng.uniform(0.3, 1.5, array.shape)
        else:
            array[...] = rng.normal(size=array.shape) / np.sqrt(array.shape[0] + 1)
    for layer in model.layers:
        if getattr(layer, "use_bias", True) is False and hasattr(layer, "AllW"):
            layer.AllW[: layer._n_biases] = 0
    return model


def agrees(model, path, *inputs):
    """The largest difference from ONNX Runtime, relative to the largest value."""
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)}
    found = session.run(None, feeds)
    wanted = model.forward(inputs[0] if len(inputs) == 1 else [*inputs], train=False)
    wanted = wanted if isinstance(wanted, list) else [wanted]
    for y, want in zip(found, wanted, strict=True):
        assert y.shape == want.shape
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5 * max(1, np.abs(want).max()))
