"""Compare ONNX Runtime with npdl on the network of each example: the table of docs/onnx.md.

python tools/compare_onnx.py                 all examples, trained briefly, a few minutes
python tools/compare_onnx.py names chatbot   these alone, printed

The examples fetch their data as usual. Of each network that an example trains, the last one is
exported, and both run on the first samples that it learned from. The difference is the largest one
of all outputs, as a part of the largest output, or of 1 if that is smaller.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import runpy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import npdl
from npdl.adapter import Data

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "onnx.md"
BEGIN, END = "<!-- examples -->\n", "\n<!-- end of examples -->"

#: Each run of an example, and the options that make it short.
RUNS = {
    "digits --model mlp": "--epochs 1",
    "digits --model cnn": "--epochs 1",
    "sentences --model cnn": "--epochs 1",
    "sentences --model lstm": "--epochs 1",
    "characters --model rnn": "--epochs 1 --rounds 1",
    "characters --model gru": "--epochs 1 --rounds 1",
    "characters --model lstm": "--epochs 1 --rounds 1",
    "tour": "--epochs 1",
    "addition": "--epochs 1 --count 300 --test 50",
    "shapes": "--epochs 1 --count 32 --test 8",
    "words": "--epochs 1 --count 64 --test 8",
    "mnist --model mlp": "--epochs 1",
    "mnist --model cnn": "--epochs 1",
    "fashion --model cnn": "--epochs 1 --limit 640",
    "fashion --model resnet": "--epochs 1 --limit 640",
    "names --task language": "--epochs 1 --networks 1",
    "names --task gender": "--epochs 1 --networks 1",
    "tweets --model cnn": "--epochs 1",
    "tweets --model lstm": "--epochs 1",
    "emma --model rnn": "--epochs 1 --limit 50000",
    "emma --model lstm": "--epochs 1 --limit 50000",
    "glucose": "--epochs 1 --limit 2000",
    "anomalies": "--epochs 1 --digits 1",
    "transfer": "--epochs 1 --rounds 1",
    "chatbot": "train --epochs 1",
}


class Compared(NamedTuple):
    """The result of `compare`."""

    parameters: int
    size: int
    difference: float


@contextlib.contextmanager
def watched() -> Iterator[dict[int, tuple[npdl.Model, Any]]]:
    """The models that are trained in the block, with their training data, in order."""
    trained: dict[int, tuple[npdl.Model, Any]] = {}
    fit = npdl.Model.fit

    def recorded(model: npdl.Model, X: Any, *args: Any, **options: Any) -> Any:
        trained[id(model)] = model, X
        return fit(model, X, *args, **options)

    npdl.Model.fit = recorded  # type: ignore[method-assign]
    try:
        yield trained
    finally:
        npdl.Model.fit = fit  # type: ignore[method-assign]


def compare(model: npdl.Model, X: Any, path: Path, samples: int = 8) -> Compared:
    """Export a model to `path`, and run it by both on the first samples of its data."""
    import onnxruntime

    data = Data(model.data_names, X)
    if data.batch is None:
        xs, _, _, masks = data.feed(samples, None).first()
    else:
        xs, _, _, masks = data.batch.rows(slice(samples))
    masks = masks or (None,) * len(xs)
    names = model.input_names
    masked = {name: mask for name, mask in zip(names, masks) if mask is not None}
    npdl.export_onnx(model, path, masks=[*masked])

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {**dict(zip(names, xs)), **{f"{name}_mask": mask for name, mask in masked.items()}}
    kinds = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
    found = session.run(
        None, {i.name: feeds[i.name].astype(kinds[i.type]) for i in session.get_inputs()}
    )
    given = {n: x if m is None else (x, m) for n, x, m in zip(names, xs, masks)}
    wanted = model.predict(given if len(given) > 1 else given[names[0]])
    wanted = [*wanted.values()] if isinstance(wanted, dict) else wanted
    wanted = wanted if isinstance(wanted, list) else [wanted]
    difference = 0.0
    for y, want in zip(found, wanted, strict=True):
        if y.shape != want.shape:
            raise ValueError(f"Both must have one shape. Received: {y.shape} and {want.shape}")
        scale = max(1.0, float(np.abs(want).max()))
        difference = max(difference, float(np.abs(y - want).max()) / scale)
    return Compared(model.count_params(), path.stat().st_size, difference)


def run(example: str, folder: Path) -> Compared:
    """Run an example, shortened, and compare the network that it trains last."""
    script, *options = [*example.split(), *RUNS[example].split()]
    path = EXAMPLES / (script if script == "chatbot" else f"{script}.py")
    before, there = sys.argv, os.getcwd()
    sys.argv = [str(path), *options]
    sys.path.insert(0, str(EXAMPLES))
    os.chdir(folder)
    try:
        with watched() as trained, contextlib.redirect_stdout(None):
            with contextlib.suppress(SystemExit):
                runpy.run_path(str(path), run_name="__main__")
    finally:
        os.chdir(there)
        sys.argv = before
        sys.path.remove(str(EXAMPLES))
    if not trained:
        sys.exit(f"error: {example} trained nothing")
    return compare(*[*trained.values()][-1], folder / "model.onnx", 64)


def main() -> None:
    """Called from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("examples", nargs="*", metavar="example", help="default: all of them")
    wanted = parser.parse_args().examples
    scripts = {example.split()[0] for example in RUNS}
    if unknown := {*wanted} - scripts:
        parser.error(f"an example must be one of {', '.join(sorted(scripts))}. Received: {unknown}")
    rows = ["| example | parameters | file | difference |", "|---|---:|---:|---:|"]
    print(*rows, sep="\n")
    for example in RUNS:
        if wanted and example.split()[0] not in wanted:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = run(example, Path(folder))
        name, _, options = example.partition(" ")
        name += f", `{options}`" if options else ""
        size = f"{found.size / 1e6:.2f} MB"
        rows.append(f"| {name} | {found.parameters:,} | {size} | {found.difference:.1e} |")
        print(rows[-1], flush=True)
    if not wanted:
        text = PAGE.read_text("utf-8")
        head, tail = text.split(BEGIN)[0], text.split(END)[1]
        PAGE.write_text(head + BEGIN + "\n" + "\n".join(rows) + "\n" + END + tail, "utf-8")


if __name__ == "__main__":
    main()
