"""The shapes and options with which the kernels are compared with their twins.

``CASES[label]`` is a method of `kernel_calls.Maker` and its arguments.
"""

from __future__ import annotations

import functools
import itertools

from case_values import ACTIVATIONS, DEPTHS, EDGES, ELEMENTWISE, EXPONENTIAL
from kernel_calls import LARGE

from npdl._ext.activation_np import ELLIOT, RELU, SYMMETRIC_ELLIOT, TANH


def activation_cases():
    for size in (0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 37, 16384, 16385, 40009):
        yield f"n{size}", dict(size=size)
    for (name, act), size in itertools.product(ELEMENTWISE.items(), (1, 67, 16411)):
        yield f"{name}-n{size}", dict(size=size, act=act)


def attention_cases():
    def case(n, tq, tk, h, d, e, **options):
        words = [f"{n}x{tq}x{tk}x{h}x{d}x{e}", *(f"{k}={v}" for k, v in options.items())]
        return "-".join(words), dict(n=n, tq=tq, tk=tk, h=h, d=d, e=e, **options)

    for size in (*EDGES, 95, 96, 97):  # around the block of queries
        yield case(2, size, 5, 1, 3, 2)
        yield case(2, 5, size, 2, 3, 2, causal=True)
        yield case(1, size, size, 1, 2, 3, q_mask="some", k_mask="some", causal=True)
    for size in EDGES:
        yield case(1, 7, 5, 2, size, 3)
        yield case(1, 7, 5, 2, 3, size)
        yield case(1, 3, 4, 2, size, 3, additive=True)
    for deep in (511, 513, 1025):  # blocks of a deep product
        yield case(1, 3, deep, 1, 2, 3)
        yield case(1, 50, 4, 1, deep, 3)
    for mask in ("all", "none", "some", "lengths", "late", "nonzero"):
        for causal in (False, True):
            yield case(3, 50, 53, 2, 5, 4, k_mask=mask, causal=causal)
            yield case(3, 53, 50, 2, 5, 4, q_mask=mask, k_mask=mask, causal=causal)
            yield case(3, 9, 7, 2, 5, 4, q_mask=mask, k_mask=mask, causal=causal, additive=True)
    for grads in ("", "q", "k", "v", "w", "qk", "kvw"):
        yield case(2, 7, 5, 2, 3, 4, grads=grads, k_mask="some", additive=True)
        yield case(2, 7, 5, 2, 3, 4, grads=grads, causal=True)
    yield case(0, 3, 4, 2, 5, 6)
    yield case(0, 3, 4, 2, 5, 6, additive=True)


def dense_cases():
    for n in (0, *EDGES):
        yield f"n{n}", dict(n=n, d=5, u=3)
    for d in EDGES + DEPTHS:
        yield f"d{d}", dict(n=9, d=d, u=26)
    for u in EDGES + DEPTHS:
        yield f"u{u}", dict(n=6, d=7, u=u)
    for u in (*EDGES, 71, 72, 73, 96, 97, 145):  # a row or three: panels of b, its last columns
        yield f"n1-u{u}", dict(n=1, d=9, u=u)
        yield f"n3-u{u}", dict(n=3, d=9, u=u)
    for n in (192, 193, *DEPTHS):
        yield f"n{n}", dict(n=n, d=10, u=13)
    for n, d, u in [(64, 129, 97), (200, 20, 200), (193, 257, 49), (1, 300, 301), (3, 67, 129)]:
        yield f"n{n}-d{d}-u{u}", dict(n=n, d=d, u=u)
    # tall tiles, with x in place or packed, in one block or several
    for n, d, u in [(67, 40, 16), (66, 601, 8), (129, 50, 15), (1100, 13, 31), (200, 530, 32)]:
        yield f"n{n}-d{d}-u{u}", dict(n=n, d=d, u=u)
    # tiles that store ReLU, in one block of k or several; the first one packs its panel
    for n, d, u in [(8, 9, 97), (64, 530, 145), (101, 40, 48), (1100, 150, 500)]:
        yield f"relu-n{n}-d{d}-u{u}", dict(n=n, d=d, u=u, act=ACTIVATIONS["relu-1.0"])
    yield "rows-in-blocks", dict(n=2050, d=19, u=50)
    for without in (("dx",), ("dw",), ("db",), ("dx", "db"), ("dw", "db"), ("b",)):
        yield "-".join(["no", *without]), dict(n=9, d=5, u=7, without=without)
        yield "-".join(["row-no", *without]), dict(n=1, d=5, u=7, without=without)
    for name, act in ACTIVATIONS.items():
        yield name, dict(n=19, d=5, u=7, act=act)
    yield "exponential", dict(n=19, d=5, u=7, act=EXPONENTIAL["exponential"])


def dropout_cases():
    for size in (0, 1, 2, 3, 7, 8, 31, 37, 2047, 2048, 2049, 16383, 16384, 16385, 40009):
        yield f"n{size}", dict(size=size)
    for p, seed in itertools.product((0.0, 0.5, 1 - 2**-40), (0, 1, 2**64 - 1)):
        yield f"p{p:.1f}-seed{seed}", dict(size=2 * 16384 + 77, p=p, seed=seed)


def embedding_cases():
    yield "ones", dict(rows=1, width=1, n=1)
    for width in EDGES:
        yield f"d{width}", dict(rows=7, width=width, n=20)
    for rows, width, n in [(5, 3, 0), (3, 5, 400), (1, 9, 50), (1000, 7, 5), (300, 130, 999)]:
        yield f"v{rows}-d{width}-n{n}", dict(rows=rows, width=width, n=n)


def merge_cases():
    for size in (0, *EDGES[1:], 1023, 1024, 1025, 16385, 40009):
        yield f"n{size}", dict(size=size)
    for name, act in ACTIVATIONS.items():
        yield f"act-{name}", dict(size=1031, act=act)


def norm_cases():
    def case(*shape, **options):
        return "x".join(map(str, shape)), dict(shape=shape, **options)

    for channels in EDGES:
        yield case(9, channels, 1)
    for inner in (2, 3, 7, 15, 16, 17, 63, 64, 65, 511, 512, 513, 1023, 1024, 1025, 2049):
        yield case(5, 3, inner)
    for outer in (1, 3, 4, 5, 31, 32, 33, 34, 35, 64, 65):
        yield case(outer, 2, 40)
        yield case(outer, 2, 519)
    for channels in (31, 32, 33, 63, 64, 65, 129):  # around the columns of a task
        yield case(35, channels, 1)
        yield case(6, channels, 2)
    yield case(3, 149, 40)  # blocks of several channels
    yield case(67, 3, 1500)
    yield case(9001, 2, 1)
    yield case(1, 5, 1)  # one number: the result is 0
    for empty in [(0, 3, 4), (0, 3, 600), (4, 3, 0)]:
        yield case(*empty)
    for shape in [(7, 5, 3), (3, 2, 600)]:
        for key in ("dx", "dgamma", "dbeta"):
            label, options = case(*shape, **{key: False})
            yield f"{label}-no-{key}", options
    sizes = [(9, 5, 1), (1, 3, 7), (2, 3, 7), (3, 65, 1), (37, 4, 9), (3, 149, 40), (5, 3, 511)]
    for shape in [*sizes, (3, 2, 512), (2, 3, 1055), (0, 3, 4)]:
        label, options = case(*shape, act=(RELU, 1.0))
        yield f"{label}-relu", options


def layernorm_cases():
    def case(*shape, **options):
        words = [f"{key}{value}" for key, value in options.items()]
        return "-".join(["x".join(map(str, shape)), *words]), dict(shape=shape, **options)

    for length in (*EDGES[1:], 127, 1023, 1024, 1025, 2049):  # with 2, only rounding remains
        yield case(5, length, 1)
        yield case(3, length, 2)
    yield case(5, 1, 33)
    for rows in (1, 2, 3, 63, 64, 65, 129, 1001):
        yield case(rows, 20, 1)
        yield case(rows, 3, 2, groups=2)
    for groups in (1, 2, 5):
        yield case(7, 3, 11, groups=groups)
        yield case(4, 6, 1, groups=groups)
        yield case(3, 2, 1500, groups=groups)
    yield case(700, 70, 1)
    yield case(0, 3, 1)
    yield case(0, 3, 4, groups=2)
    for without in [("mean",), ("beta", "mean", "dbeta"), ("dx",), ("dgamma",), ("dbeta",)]:
        for shape in [(9, 37, 1), (5, 4, 9)]:
            yield case(*shape, groups=2, without=without)


def conv_cases():
    def case(x, w, stride=(1, 1), pad=(0, 0), **options):
        words = ["x".join(map(str, v)) for v in (x, w)]
        words += [f"stride{stride[0]}x{stride[1]}", f"pad{pad[0]}x{pad[1]}"]
        if "out" in options:
            words.append(f"out{options['out'][0]}x{options['out'][1]}")
        return "-".join(words), dict(x=x, w=w, stride=stride, pad=pad, **options)

    yield case((1, 1, 1, 1), (1, 1, 1))
    yield case((2, 3, 7, 5), (4, 2, 3), (2, 1), (1, 2))
    yield case((2, 3, 7, 5), (4, 1, 1))
    yield case((2, 3, 7, 5), (4, 7, 5))  # one window
    yield case((2, 3, 1, 9), (4, 1, 3))
    yield case((2, 3, 9, 1), (4, 3, 1))
    yield case((3, 2, 11, 13), (5, 2, 2), (3, 4))  # gaps between the windows
    yield case((3, 2, 11, 13), (5, 1, 1), (3, 4))
    yield case((1, 2, 9, 8), (3, 5, 4), (2, 3))  # overlaps, and pixels without a window
    yield case((2, 2, 9, 10), (3, 5, 4), (1, 4), (4, 0))
    yield case((2, 1, 3, 4), (2, 2, 2), (1, 1), (3, 5))  # windows that hold only padding
    yield case((2, 1, 3, 4), (2, 2, 3), (2, 3), (3, 5))
    yield case((2, 2, 2, 2), (3, 5, 5), (1, 1), (2, 2))  # a filter larger than the image
    yield case((2, 2, 2, 3), (3, 5, 7), (3, 2), (4, 5))
    yield case((2, 3, 5, 6), (4, 3, 3), (2, 2), out=(4, 5))  # windows beyond the image
    yield case((2, 3, 5, 6), (4, 3, 2), (1, 3), (1, 0), out=(7, 4))
    yield case((2, 3, 4, 5), (4, 3, 2), (2, 1), (0, 1), out=(6, 9))
    yield case((2, 3, 9, 9), (4, 3, 3), (1, 1), out=(2, 3))  # pixels that no window reaches
    yield case((2, 3, 9, 9), (4, 3, 3), (2, 3), (2, 1), out=(1, 1))
    yield case((2, 3, 3, 3), (4, 2, 2), (7, 9), out=(3, 2))  # all but one beyond the image
    for f in EDGES:
        yield case((2, 2, 6, 5), (f, 3, 2))
    for c in EDGES:
        yield case((2, c, 5, 6), (3, 2, 3), (1, 2), (1, 1))
    for c in (28, 29, 57):  # c * 3 * 3 around 256 and 512
        yield case((2, c, 5, 4), (5, 3, 3), (1, 1), (1, 1))
    for width in (3, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18, 24, 25, 26, 32, 33, 34, 48, 49, 50):
        yield case((2, 2, 3, width), (3, 2, 2))  # rows of windows around a vector and a tile
    for stride in (3, 4, 5, 7):  # phases that no filter reaches
        yield case((2, 2, 11, 12), (3, 3, 2), (stride, stride + 1), (1, 1))
    for n in (0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17):
        yield case((n, 2, 6, 5), (3, 3, 2), (1, 1), (1, 0))
    for out_h in (1, 2, 3, 4, 5, 7):  # one image, in parts
        yield case((1, 2, out_h + 2, 5), (3, 3, 2))
    for n in (9, 17):  # the images that a pass processes together, and one more
        yield case((n, 8, 17, 15), (16, 3, 3), (1, 1), (1, 1))
    yield case((3, 24, 40, 41), (13, 3, 3), (1, 1), (1, 1))  # large images
    for x, w in [  # one run for each window: filters as wide as the image, images of one column
        ((3, 1, 9, 7), (5, 3, 7)),
        ((3, 2, 9, 7), (5, 3, 7)),
        ((3, 5, 9, 1), (6, 4, 1)),
        ((2, 700, 3, 1), (5, 2, 1)),  # in pieces
        ((3, 7, 5, 4), (33, 5, 4)),  # one window
        ((3, 19, 1, 1), (33, 1, 1)),
    ]:
        yield case(x, w)
        yield case(x, w, (2, 1), (1, 0))
    yield case((5, 33, 4, 3), (34, 3, 2), (1, 1), (1, 1))  # channels of dx in two sections
    yield case((40, 3, 2, 2), (5, 2, 2), (1, 1), (1, 0))  # many images to a block
    yield case((2, 3, 90, 70), (20, 7, 3), (1, 1), (3, 1))  # images in strips
    yield case((2, 3, 90, 11), (5, 9, 2), (4, 1))
    yield case((5, 1, 14, 15), (35, 7, 7), (1, 1), (3, 3))  # dW by taps
    yield case((2, 3, 60, 61), (19, 7, 7), (2, 2), (3, 3))
    label, options = case((2, 3, 7, 5), (4, 2, 3), (2, 1))
    for count in (1, 2, 3):
        for without in itertools.combinations(("dx", "dw", "db"), count):
            yield "-".join([label, "no", *without]), dict(options, without=without)
    yield label + "-no-b", dict(options, without=("b",))
    yield label + "-wide-no-b", dict(options, x=(2, 3, 7, 30), without=("b",))
    yield label + "-dense-no-b", dict(options, x=(2, 3, 2, 3), without=("b",))
    for name, act in ACTIVATIONS.items():
        yield name, dict(options, act=act)
    yield from dilated_and_grouped(case)
    for label, options in [*transposed_cases(case)]:
        yield f"transposed-{label}", dict(options, transposed=True)
        last = dict(options, transposed=True, last=1)
        if "last" not in options:
            yield f"transposed-{label}-last", last


def dilated_and_grouped(case):
    for x, w, stride, pad, dilation in [
        ((2, 3, 9, 8), (4, 3, 2), (1, 1), (0, 0), (2, 3)),
        ((2, 3, 9, 8), (4, 3, 2), (2, 1), (2, 1), (3, 2)),
        ((2, 3, 12, 11), (4, 2, 2), (5, 7), (1, 1), (3, 4)),  # gaps beside dilation
        ((2, 3, 9, 8), (4, 1, 4), (1, 1), (0, 1), (9, 2)),
        ((3, 20, 5, 30), (7, 3, 3), (1, 1), (2, 2), (2, 2)),
        ((3, 20, 16, 30), (17, 3, 3), (1, 1), (2, 2), (2, 2)),  # in Winograd's form
    ]:
        label, options = case(x, w, stride, pad, dilation=dilation)
        label += f"-dilation{dilation[0]}x{dilation[1]}"
        for last in (0, 1):
            yield f"{label}-last{last}", dict(options, last=last)
    yield case((2, 6, 5, 6), (10, 3, 2), (1, 1), (1, 0), groups=2)
    for groups, c, f in [(2, 2, 2), (3, 6, 3), (4, 4, 12), (2, 34, 70), (5, 5, 5), (5, 5, 10)]:
        for last in (0, 1):
            label, options = case((3, c, 7, 6), (f, 3, 2), (2, 1), (1, 1), groups=groups)
            yield f"{label}-groups{groups}-last{last}", dict(options, last=last)
    for c, stride, pad, dilation in [  # depthwise: channels around the size of a task
        (17, (1, 1), (1, 1), (1, 1)),
        (35, (2, 3), (2, 1), (1, 2)),
        (3, (4, 4), (0, 3), (2, 1)),
        (3, (5, 1), (1, 0), (1, 1)),
    ]:
        for last in (0, 1):
            label, options = case((3, c, 11, 9), (2 * c, 3, 2), stride, pad, groups=c, last=last)
            label += f"-depthwise-dilation{dilation[0]}x{dilation[1]}-last{last}"
            yield label, dict(options, dilation=dilation)
            yield f"transposed-{label}", dict(options, dilation=dilation, transposed=True)
    for image, stride, pad, out in [  # in place: one vector in a row, several, zeros on each side
        ((5, 19), (1, 1), (1, 1), (5, 19)),
        ((7, 11), (1, 1), (2, 0), (9, 9)),
        ((3, 28), (1, 1), (1, 1), (3, 28)),
        ((6, 36), (2, 2), (1, 1), (3, 18)),
        ((7, 20), (2, 2), (0, 0), (4, 10)),
    ]:
        yield case((2, 3, *image), (6, 3, 3), stride, pad, out=out, groups=3)
    for t, d, f, k in [(9, 5, 3, 4), (9, 1, 3, 2), (7, 40, 17, 3), (50, 33, 20, 1), (1, 4, 5, 1)]:
        label, options = case((3, d, t, 1), (f, k, 1), last=1)  # sequences
        yield f"{label}-last", options
        yield f"{label}-last-causal", dict(options, pad=(k - 1, 0), out=(t, 1))
        yield f"{label}-last-strided", dict(options, stride=(2, 1), pad=(1, 0))


def transposed_cases(case):
    yield case((2, 3, 7, 5), (4, 2, 3), (2, 1), (1, 2))
    yield case((2, 3, 8, 9), (4, 3, 3), (2, 2), (1, 1))  # pixels that no window reaches
    yield case((2, 3, 8, 9), (4, 2, 1), (3, 4))
    yield case((2, 35, 6, 5), (17, 3, 3), (1, 1), (1, 1))
    yield case((3, 2, 4, 3), (5, 4, 3))  # from one pixel
    yield case((3, 32, 9, 8), (17, 3, 4), (2, 3), (1, 2))  # phase by phase
    yield case((3, 16, 9, 9), (16, 3, 3), (2, 2), (1, 1))
    yield case((2, 30, 7, 6), (18, 1, 2), (2, 2))
    label, options = case((2, 4, 9, 8), (6, 3, 2), (2, 1), (1, 0), groups=2, dilation=(2, 3))
    yield f"{label}-groups2-dilation", options
    for without in (("dx",), ("dw",), ("db",), ("dw", "db"), ("b",)):
        label, options = case((2, 3, 7, 5), (4, 2, 3), (2, 1), (1, 2), without=without)
        yield "-".join([label, "no", *without]), options


def pool_cases():
    for x, window, stride in [
        ((1, 1, 1, 1), (1, 1), (1, 1)),
        ((2, 3, 7, 5), (2, 3), (1, 2)),
        ((2, 3, 7, 5), (7, 5), (1, 1)),
        ((2, 3, 8, 6), (2, 2), (2, 2)),
        ((3, 2, 11, 13), (2, 2), (3, 4)),
        ((3, 2, 11, 13), (3, 5), (1, 1)),
        ((1, 5, 1, 50), (1, 3), (1, 2)),
        ((1, 5, 50, 1), (3, 1), (2, 1)),
        ((2, 1, 9, 101), (3, 3), (2, 3)),
        ((0, 3, 7, 5), (2, 3), (1, 2)),
        ((2, 1, 131, 127), (3, 2), (2, 2)),  # more pixels than one task takes
        ((37, 8, 9, 7), (2, 2), (2, 2)),
        *((((7, 3, 2 * w, 2 * w + 1), (2, 2), (2, 2))) for w in (1, 2, 3, 4, 5, 9, 17, 33)),
        ((2, 3, 9, 40), (2, 17), (1, 3)),  # wide windows, one by one
        ((3, 5, 19, 23), (19, 23), (1, 1)),
        ((3, 5, 19, 7), (4, 7), (2, 1)),
        ((2, 2, 3, 700), (2, 3), (1, 2)),  # more outputs in a row than a block has
        ((2, 1, 3, 1100), (1, 1), (1, 1)),
        ((2, 1, 40, 300), (3, 1), (2, 1)),
    ]:
        label = (
            "x".join(map(str, x)) + f"-window{window[0]}x{window[1]}-stride{stride[0]}x{stride[1]}"
        )
        yield label, dict(x=x, window=window, stride=stride)
        yield label + "-ties", dict(x=x, window=window, stride=stride, values=3)
    for x, window, stride, pad, out in [
        ((2, 3, 7, 5), (3, 2), (1, 1), (2, 1), (9, 6)),
        ((2, 3, 7, 5), (2, 2), (2, 2), (0, 0), (4, 3)),  # the last windows reach beyond the image
        ((2, 3, 8, 6), (2, 2), (2, 2), (1, 1), (5, 4)),
        ((3, 2, 5, 4), (3, 5), (2, 1), (1, 2), (3, 4)),
        ((2, 3, 4, 3), (9, 8), (3, 2), (4, 4), (2, 3)),  # larger than the image
        ((5, 3, 1, 2), (3, 3), (1, 4), (2, 2), (3, 1)),
        ((2, 2, 4, 50), (3, 20), (2, 7), (1, 19), (2, 9)),
        ((2, 2, 4, 300), (2, 3), (3, 2), (0, 1), (2, 150)),
        ((1, 2, 3, 550), (3, 3), (1, 1), (1, 1), (3, 550)),
    ]:
        label = "-".join("x".join(map(str, v)) for v in (x, window, stride)) + f"-pad{pad}"
        yield label, dict(x=x, window=window, stride=stride, pad=pad, out=out)
        yield label + "-ties", dict(x=x, window=window, stride=stride, pad=pad, out=out, values=3)
    yield "no-argmax", dict(x=(2, 3, 7, 8), window=(2, 3), stride=(2, 2), argmax=False)
    yield "no-argmax-stride1", dict(x=(2, 3, 7, 8), window=(2, 3), stride=(1, 1), argmax=False)
    yield "not-all-windows", dict(x=(2, 3, 7, 8), window=(2, 3), stride=(2, 2), out=(2, 1))


def resize_cases():
    for x, down, right in [
        ((1, 1, 1, 1), 3, 2),
        ((2, 3, 4, 5), 2, 2),
        ((2, 3, 5, 1), 1, 3),
        ((2, 2, 1, 7), 4, 1),
        ((0, 3, 2, 2), 2, 2),
        ((2, 1, 3, 255), 1, 2),
        ((1, 2, 3, 256), 2, 2),  # as many pixels as a block has, and more
        ((1, 2, 2, 257), 3, 5),
        ((3, 1, 2, 600), 2, 3),
        ((19, 5, 8, 9), 2, 2),
    ]:
        for linear in (False, True):
            label = "x".join(map(str, x)) + f"-by{down}x{right}" + "-linear" * linear
            yield label, dict(x=x, down=down, right=right, linear=linear)


def softmax_cases():
    for n, k in [
        *((5, k) for k in EDGES),
        (1, 1),
        (1, 1000),
        (2, 9001),
        (17, 2),
        (901, 10),
        (0, 4),
    ]:
        yield f"n{n}-k{k}", dict(n=n, k=k)
        yield f"n{n}-k{k}-dense", dict(n=n, k=k, dense=True)
    yield "large", dict(n=9, k=7, scale=1e4)
    yield "small", dict(n=9, k=7, scale=1e-30)


def ctc_cases():
    """Long enough for their labels: `test_values` has what can't be aligned."""
    base = dict(n=5, t=40, k=6, length=7)
    for n, t, k, length in [(1, 1, 1, 1), (1, 1, 2, 1), (2, 1, 3, 0), (0, 3, 4, 2), (3, 2, 5, 1)]:
        yield f"n{n}-t{t}-k{k}-l{length}", dict(n=n, t=t, k=k, length=length)
    for length in (0, 1, 3, 4, 7, 8, 15, 16):  # 2 L + 1 states, around the widths of vectors
        yield f"l{length}", dict(base, length=length)
    for k in (2, 7, 8, 9, 33):
        yield f"k{k}", dict(base, k=k, blank=k - 1)
    yield "threads", dict(n=37, t=61, k=29, length=21, blank=3)
    yield "log-probabilities", dict(base, normalize=False)
    yield "certain", dict(base, scale=30.0)
    for mask in ("all", "nonzero"):
        yield f"mask-{mask}", dict(base, mask=mask)
        yield f"mask-{mask}-log-probabilities", dict(base, mask=mask, normalize=False)


def log_softmax_cases():
    for n, k in [*((5, k) for k in EDGES), (1, 1), (1, 1000), (2, 9001), (901, 10), (0, 4)]:
        yield f"n{n}-k{k}", dict(n=n, k=k)
    yield "large", dict(n=9, k=7, scale=1e4)
    yield "small", dict(n=9, k=7, scale=1e-30)


def optimizer_cases():
    for size in (0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 37, 16383, 16384, 16385, 40009):
        yield f"n{size}", dict(size=size)
    for step in (1, 2, 100_000):
        yield f"step{step}", dict(size=67, step=step)
    yield "small-lr", dict(size=67, lr=1e-30)
    yield "no-lr", dict(size=67, lr=0.0)


def recurrent_cases(cell):
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[cell]
    base = dict(cell=cell, n=5, t=4, d=3, u=7)
    yield "ones", dict(cell=cell, n=1, t=1, d=1, u=1)
    for n in (0, *EDGES):
        yield f"n{n}", dict(base, n=n)
    for u in EDGES:
        yield f"u{u}", dict(base, u=u)
    for d in (1, 24, 47, 257):
        yield f"d{d}", dict(base, d=d)
    for t in (1, 2, 61):
        yield f"t{t}", dict(base, t=t)
    for u in {1: DEPTHS, 3: (85, 86, 127, 128, 129, 257), 4: (63, 64, 65, 129, 257)}[gates]:
        yield f"u{u}", dict(base, n=3, t=2, u=u)
    for u in EDGES:  # a row or three, with the weights packed, and without
        yield f"n2-t3-u{u}", dict(base, n=2, t=3, u=u)
        yield f"n3-t5-u{u}", dict(base, n=3, t=5, u=u)
    yield "n1-threads", dict(base, n=1, t=6, u=251)
    yield "threads", dict(base, n=33, t=9, d=20, u=40, mask="some")
    for n in (3, 9):
        yield f"large-n{n}", dict(base, n=n, t=2, u=LARGE[cell], mask="some")
    for mask in ("all", "none", "some", "lengths", "late", "nonzero"):
        yield f"mask-{mask}", dict(base, t=6, mask=mask)
    for mask in (None, "lengths", "late"):
        for n, u in [(1, 7), (3, 5), (9, 33)]:
            yield f"reverse-{mask}-n{n}-u{u}", dict(base, n=n, t=6, u=u, mask=mask, reverse=True)
    for drop, n in itertools.product(("x", "h", "xh"), (1, 5, 33)):
        for reverse in (False, True):
            options = dict(base, n=n, t=6, mask="some", drop=drop, reverse=reverse)
            yield f"drop-{drop}-n{n}{'-reverse' * reverse}", options
    if cell == "gru":
        for n, t, d, u in [
            *((n, t, 3, 7) for n in (0, 1, 2, 3, 5, 9, 33) for t in (1, 3, 6)),
            *((5, 4, 3, u) for u in EDGES),
            *((n, 4, 257, u) for n in (2, 9) for u in (1, 129)),
        ]:
            yield f"after-n{n}-t{t}-d{d}-u{u}", dict(base, n=n, t=t, d=d, u=u, after=True)
        for without in [("gates",), ("dw",), ("dx", "dw"), ("dh", "dx")]:
            for n in (1, 5, 33):
                options = dict(base, n=n, t=6, mask="some", without=without, after=True)
                yield f"after-no-{'-'.join(without)}-n{n}", options
        for drop, reverse in itertools.product(("", "x", "h", "xh"), (False, True)):
            options = dict(base, n=9, t=6, mask="some", drop=drop, reverse=reverse, after=True)
            yield f"after-drop-{drop}{'-reverse' * reverse}", options
    optional = ("dh", "dhn", "dx", "dw") + ("dcn",) * (cell == "lstm")
    for count in range(1, len(optional) + 1):
        for without in itertools.combinations(optional, count):
            yield "no-" + "-".join(without), dict(base, mask="some", without=without)
    forward_alone = {"rnn": [], "gru": [("gates",)], "lstm": [("gates",), ("c",), ("c", "gates")]}
    for without in forward_alone[cell]:
        for n, mask in itertools.product((1, 3, 5, 33), (None, "some")):
            label = f"no-{'-'.join(without)}-n{n}-{mask}"
            yield label, dict(base, n=n, t=6, mask=mask, without=without)
    for name, act in ACTIVATIONS.items():
        yield f"act-{name}", dict(base, act=act)
        if gates > 1:
            yield f"gate-{name}", dict(base, gate_act=act, mask="some")
    if gates > 1:
        yield "both", dict(base, act=(SYMMETRIC_ELLIOT, 1.7), gate_act=(ELLIOT, 0.6))
        yield "relu-tanh", dict(base, act=(RELU, 1.0), gate_act=(TANH, 1.0))


GENERATORS = {
    "attention": attention_cases,
    "activation": activation_cases,
    "dense": dense_cases,
    "dropout": dropout_cases,
    "embedding": embedding_cases,
    "merge": merge_cases,
    "norm": norm_cases,
    "conv": conv_cases,
    "pool": pool_cases,
    "resize": resize_cases,
    "softmax": softmax_cases,
    "ctc": ctc_cases,
    "layernorm": layernorm_cases,
    "log_softmax": log_softmax_cases,
    "optimizer": optimizer_cases,
    "rnn": functools.partial(recurrent_cases, "rnn"),
    "lstm": functools.partial(recurrent_cases, "lstm"),
    "gru": functools.partial(recurrent_cases, "gru"),
}
CASES = {
    f"{kind}-{label}": (kind, options)
    for kind, generator in GENERATORS.items()
    for label, options in generator()
}
