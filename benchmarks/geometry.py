"""Layers of every shape against PyTorch's: convolutions here, the others in ``shapes.py``.

The rate of a layer should not depend on its sizes: the width of the output of a convolution, the
number of channels, the size of the filters, of units, of steps, of classes.

``python -m benchmarks.geometry LIBRARY THREADS`` serves one library: it reads the number of a
shape and seconds, a line for each request, and answers with a time in ms for each part.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from benchmarks.envs import ROOT
from benchmarks.report import ms, table
from benchmarks.shapes import SHAPES, Shape
from benchmarks.worker import measure, pin


class Geometry(NamedTuple):
    """A convolution: images (N, C, H, W), filters (F, KH, KW)."""

    name: str
    x: tuple[int, int, int, int]
    w: tuple[int, int, int]
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    transposed: bool = False

    parts = ("forward", "dW", "dx")

    @property
    def out(self) -> tuple[int, int]:
        """Height and width of the output."""
        axes = zip(self.x[2:], self.w[1:], self.stride, self.pad, self.dilation)
        rows, cols = ((i + 2 * p - d * (k - 1) - 1) // s + 1 for i, k, s, p, d in axes)
        return rows, cols

    @property
    def gflop(self) -> float:
        """Multiply-adds of one part, counted twice."""
        n, c, *_ = self.x
        return 2 * n * c // self.groups * math.prod(self.w) * math.prod(self.out) / 1e9

    def calls(self, library: str) -> list[Callable[[], Any]]:
        """The parts in a library."""
        return {"npdl": npdl_calls, "torch": torch_calls}[library](self)


@dataclass
class GeometryRow:
    """Times of the parts by library, ms."""

    name: str
    parts: tuple[str, ...]
    gflop: float
    times: dict[str, list[float]]

    @property
    def speeds(self) -> list[float]:
        """npdl's speed over PyTorch's, for each part."""
        return [theirs / ours for ours, theirs in zip(self.times["npdl"], self.times["torch"])]


GEOMETRIES = [
    Geometry("text: filters as wide as the image", (16, 1, 100, 128), (100, 3, 128)),
    Geometry("text, five rows", (16, 1, 200, 50), (100, 5, 50)),
    Geometry("the same, turned", (16, 128, 1, 100), (100, 1, 3)),
    *(
        Geometry(f"{width} columns, one channel", (64, 1, 40, width + 31), (64, 3, 32))
        for width in (1, 2, 4, 8, 16, 32, 64)
    ),
    *(
        Geometry(f"{width} columns, 32 channels", (32, 32, 40, width + 2), (64, 3, 3))
        for width in (1, 2, 4, 8, 16, 32, 64)
    ),
    Geometry("series as a column", (32, 64, 200, 1), (64, 3, 1)),
    Geometry("series as a row", (32, 64, 1, 200), (64, 1, 3)),
    Geometry("one image, tall", (1, 16, 1000, 4), (32, 3, 3), pad=(1, 1)),
    Geometry("one row", (64, 3, 1, 500), (32, 1, 9)),
    Geometry("one channel, 3 x 3", (64, 1, 28, 28), (32, 3, 3)),
    Geometry("one channel, 5 x 5", (64, 1, 28, 28), (6, 5, 5)),
    Geometry("one channel, 7 x 7", (64, 1, 28, 28), (32, 7, 7), pad=(3, 3)),
    Geometry("three channels, 3 x 3", (64, 3, 32, 32), (32, 3, 3), pad=(1, 1)),
    Geometry("three channels, 7 x 7, stride 2", (8, 3, 112, 112), (64, 7, 7), (2, 2), (3, 3)),
    Geometry("six channels, 5 x 5", (64, 6, 14, 14), (16, 5, 5)),
    Geometry("5 x 5", (32, 32, 16, 16), (64, 5, 5), pad=(2, 2)),
    Geometry("3 x 3", (64, 64, 16, 16), (64, 3, 3), pad=(1, 1)),
    Geometry("3 x 3, 4 x 4 pixels", (64, 256, 4, 4), (256, 3, 3), pad=(1, 1)),
    Geometry("3 x 3, 2 x 2 pixels", (64, 256, 2, 2), (256, 3, 3), pad=(1, 1)),
    Geometry("3 x 3, stride 2", (64, 64, 16, 16), (128, 3, 3), (2, 2), (1, 1)),
    Geometry("3 x 3, stride 4", (32, 16, 64, 64), (64, 3, 3), (4, 4)),
    Geometry("patches, 4 x 4, stride 4", (32, 3, 64, 64), (96, 4, 4), (4, 4)),
    Geometry("1 x 1", (64, 64, 16, 16), (128, 1, 1)),
    Geometry("1 x 1, 7 x 7 pixels", (32, 256, 7, 7), (64, 1, 1)),
    Geometry("1 x 1, stride 2", (64, 64, 16, 16), (128, 1, 1), (2, 2)),
    Geometry("filter as large as the image, 28 x 28", (64, 1, 28, 28), (64, 28, 28)),
    Geometry("filter as large as the image, 7 x 7", (32, 128, 7, 7), (256, 7, 7)),
    Geometry("3 x 3, dilated by 2", (32, 32, 32, 32), (32, 3, 3), pad=(2, 2), dilation=(2, 2)),
    Geometry("causal series, dilated by 8", (16, 64, 1, 416), (64, 1, 3), dilation=(1, 8)),
    Geometry("3 x 3, four groups", (32, 64, 16, 16), (64, 3, 3), pad=(1, 1), groups=4),
    Geometry("depthwise, 3 x 3", (64, 64, 32, 32), (64, 3, 3), pad=(1, 1), groups=64),
    Geometry("depthwise, 8 x 8 pixels", (64, 256, 8, 8), (256, 3, 3), pad=(1, 1), groups=256),
    Geometry("depthwise, stride 2", (64, 64, 32, 32), (64, 3, 3), (2, 2), (1, 1), groups=64),
    Geometry(
        "transposed, 3 x 3, stride 2", (64, 16, 28, 28), (32, 3, 3), (2, 2), (1, 1), transposed=True
    ),
    Geometry(
        "transposed, 4 x 4, stride 2",
        (32, 64, 16, 16),
        (128, 4, 4),
        (2, 2),
        (1, 1),
        transposed=True,
    ),
]


def arrays(g: Geometry) -> list[np.ndarray]:
    """The arrays of a convolution: images, filters, bias, gradient of the output."""
    rng = np.random.default_rng(0)
    n, c, *_ = g.x
    shapes = [g.x, (g.w[0], c // g.groups, *g.w[1:]), (g.w[0],), (n, g.w[0], *g.out)]
    if g.transposed:
        shapes[2] = (c,)
        shapes[0], shapes[3] = shapes[3], shapes[0]
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def npdl_calls(g: Geometry) -> list[Callable[[], Any]]:
    """The parts as calls of npdl's kernels."""
    from npdl._ext import kernels
    from npdl._ext.activation_np import LINEAR

    x, w, b, dy = arrays(g)
    y, dx, dw, db = map(np.empty_like, (dy, x, w, b))
    geometry = *g.stride, *g.pad, *g.dilation, g.groups, 0, (LINEAR, 1.0)
    kind = "conv2d_transposed" if g.transposed else "conv2d"
    forward, backward = (getattr(kernels(), f"{kind}_{way}") for way in ("forward", "backward"))
    return [
        lambda: forward(x, w, b, y, *geometry),
        lambda: backward(x, w, y, dy, None, dw, db, *geometry),
        lambda: backward(x, w, y, dy, dx, None, None, *geometry),
    ]


def torch_calls(g: Geometry) -> list[Callable[[], Any]]:
    """The parts as calls of PyTorch's operators."""
    import torch

    x, w, b, dy = map(torch.from_numpy, arrays(g))
    over = [0, 0]
    if g.transposed:  # the rows and columns that the strides leave open
        axes = zip(g.x[2:], g.w[1:], g.stride, g.pad)
        over = [(i + 2 * p - k) % s for i, k, s, p in axes]
    options = (list(g.stride), list(g.pad), list(g.dilation), g.transposed, over, g.groups)

    def forward() -> Any:
        with torch.no_grad():
            return torch.ops.aten.convolution(x, w, b, *options)

    def backward(dx: bool) -> Callable[[], Any]:
        mask = [dx, not dx, not dx]
        sizes = list(b.shape)
        return lambda: torch.ops.aten.convolution_backward(dy, x, w, sizes, *options, mask)

    return [forward, backward(False), backward(True)]


CASES: list[Geometry | Shape] = [*GEOMETRIES, *SHAPES]


def serve(library: str, threads: int) -> None:
    """Answer requests until standard input ends."""
    pin(threads)
    if library == "torch":
        import torch

        torch.set_num_threads(threads)
    for line in sys.stdin:
        number, seconds = json.loads(line)
        calls = CASES[number].calls(library)
        times = [1e3 * measure(call, seconds / len(calls), 2)["min"] for call in calls]
        print(json.dumps(times), flush=True)


def times(
    pythons: dict[str, str], threads: int, rounds: int, seconds: float, names: Sequence[str]
) -> list[GeometryRow]:
    """Best times of each geometry, in ms: the libraries in turns, each in a separate process."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    env |= dict.fromkeys(("OMP_NUM_THREADS", "NPDL_NUM_THREADS"), str(threads))
    workers = {
        library: subprocess.Popen(
            [python, "-m", "benchmarks.geometry", library, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
            cwd=ROOT,
        )
        for library, python in pythons.items()
    }
    rows = []
    for number, case in enumerate(CASES):
        if names and not any(name in case.name for name in names):
            continue
        found: dict[str, list[float]] = {}
        for _ in range(rounds):
            for library, worker in workers.items():
                assert worker.stdin and worker.stdout
                worker.stdin.write(json.dumps([number, seconds]) + "\n")
                worker.stdin.flush()
                line = worker.stdout.readline()
                if not line:
                    raise RuntimeError(f"{library} ended with code {worker.wait()}.")
                best = found.get(library, [math.inf] * len(case.parts))
                found[library] = list(map(min, best, json.loads(line)))
        rows.append(GeometryRow(case.name, case.parts, case.gflop, found))
    for worker in workers.values():
        assert worker.stdin
        worker.stdin.close()
        worker.wait()
    return rows


def geometry_table(rows: Sequence[GeometryRow]) -> str:
    """Times and rates of npdl, its speed over PyTorch's, and where that is below 1."""
    texts = []
    for parts in dict.fromkeys(row.parts for row in rows):
        texts.append(_table_of([row for row in rows if row.parts == parts]))
    if all("torch" in row.times for row in rows):
        speeds = [
            (speed, f"{row.name}: {part}")
            for row in rows
            for speed, part in zip(row.speeds, row.parts)
        ]
        slow = sum(speed < 0.8 for speed, _ in speeds)
        fast = sum(speed > 1.3 for speed, _ in speeds)
        texts.append(f"Of {len(speeds)} ratios, {slow} are below 0.8, {fast} above 1.3.")
        slower = [f"- {name} {speed:.2f}" for speed, name in sorted(speeds) if speed < 1]
        texts.append("\n".join(["Slower than PyTorch:", "", *(slower or ["- none"])]))
    return "\n\n".join(texts)


def _table_of(rows: Sequence[GeometryRow]) -> str:
    """The table of rows with the same parts."""
    parts = rows[0].parts
    both = all("torch" in row.times for row in rows)
    head = ["case", *(f"{part}, ms" for part in parts), *(f"{part}, GFLOP/s" for part in parts)]
    head += [f"{part} over PyTorch" for part in parts] if both else []
    lines = []
    for row in rows:
        # A backward pass of a layer is two products, where the parts of a convolution are one each.
        flops = [row.gflop * (2 if part == "backward" else 1) for part in parts]
        line = [row.name, *map(ms, row.times["npdl"])]
        line += [f"{f / t * 1e3:.0f}" if f else "-" for f, t in zip(flops, row.times["npdl"])]
        lines.append(line + ([f"{ratio:.2f}" for ratio in row.speeds] if both else []))
    return table(head, lines)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
