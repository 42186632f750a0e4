"""Draw the benchmark table of README.md as a chart, docs/pictures/benchmarks.svg."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
KERNELS = runpy.run_path(str(ROOT / "tools" / "draw_kernels.py"))

LEFT, UNIT, ROW, TOP = 240, 115, 36, 40  # where bars begin, the length of 1, heights
BAR = 14  # a bar's height
CPUS = (("AVX2", "#c6dbf5"), ("AVX-512", "#e4d4f4"))


def rows() -> list[tuple[str, float, float]]:
    """The workloads, and how many times as fast as the best other library npdl is, on two CPUs."""
    text = (ROOT / "README.md").read_text("utf-8")
    table = text.partition("<!-- benchmark table -->")[2].partition("<!-- end")[0]
    lines = [line.strip("| ").split("|") for line in table.splitlines() if line.startswith("| ")]
    return [(cells[0].strip(), float(cells[-2]), float(cells[-1])) for cells in lines[1:]]


def draw() -> str:
    """The chart, as SVG."""
    found = rows()
    width = LEFT + int(UNIT * max(max(ratios) for _, *ratios in found)) + 60
    height = TOP + ROW * len(found) + 10
    picture = KERNELS["Picture"](width, height, "npdl against the fastest other library")
    picture.text(LEFT, 24, "1 = the fastest of PyTorch, JAX and Keras", "start", 13)
    for i, (name, *ratios) in enumerate(found):
        y = TOP + ROW * i
        picture.text(LEFT - 10, y + 20, name, "end", 13)
        for k, (ratio, (cpu, color)) in enumerate(zip(ratios, CPUS, strict=True)):
            long = round(UNIT * ratio, 1)
            picture.box(LEFT, y + 2 + BAR * k, long, BAR - 1, fill=color)
            label = f"{ratio:.2f}" if i else f"{ratio:.2f}  {cpu}"
            picture.text(LEFT + long + 8, y + 12 + BAR * k, label, "start", 11)
    picture.parts.append(
        f'<path d="M{LEFT + UNIT} {TOP - 8}V{height - 8}" stroke="#24292f" stroke-dasharray="4 3"/>'
    )
    return "\n".join([*picture.parts, "</svg>", ""])


if __name__ == "__main__":
    (ROOT / "docs" / "pictures" / "benchmarks.svg").write_text(draw(), "utf-8")
