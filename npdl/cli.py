"""The command line: ``python -m npdl``, commands that need no Python code."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from npdl import config, demo, verify
from npdl._files import atomic_write
from npdl._version import __version__
from npdl.diagram import plot_model
from npdl.layers import Embedding
from npdl.model import Model
from npdl.saving import load_model

_EXIT_CODES = "exit codes: 0 success, 1 failure (a line on stderr says why), 2 wrong usage"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m npdl",
        description="Train neural networks on the CPU you already have.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"npdl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, summary: str, details: str = "") -> argparse.ArgumentParser:
        text = f"{summary[0].upper()}{summary[1:]}. {details}"
        return commands.add_parser(name, help=summary, description=text, epilog=_EXIT_CODES)

    command = add("demo", "train a CNN on handwritten digits")
    demo.add_arguments(command)
    command.set_defaults(run=demo.run)

    command = add("verify", "compare the Cython kernels with their twins")
    command.set_defaults(run=lambda options: verify.run())

    command = add("info", "show what npdl runs on here")
    command.set_defaults(run=lambda options: config.show_config())

    command = add("summary", "show the layers of a saved model")
    _add_model(command)
    command.set_defaults(run=_summary)

    command = add("plot", "draw a saved model as SVG or PNG")
    _add_model(command)
    command.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FILE",
        help="where to write it, .svg or .png; by default an SVG beside the model",
    )
    command.set_defaults(run=_plot)

    command = add("export", "write a saved model as an ONNX file")
    _add_model(command)
    command.add_argument("out", type=Path, metavar="FILE.onnx")
    command.set_defaults(run=_export)

    command = add("import", "write the model of an ONNX file as a model of npdl")
    command.add_argument("model", type=Path, metavar="FILE.onnx")
    command.add_argument("out", type=Path, metavar="OUT")
    command.set_defaults(run=_import)

    command = add(
        "predict",
        "run a saved model on data",
        "The outputs go to standard output as CSV, a line for each sample, or to a file.",
    )
    _add_model(command)
    command.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="a .npy array, or a .csv of numbers, a line for each sample, with or without a header "
        "line; the values of a line are reshaped to the input shape of the model",
    )
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="write to this file, .npy or .csv"
    )
    command.add_argument(
        "--classes", action="store_true", help="print only the number of the most probable class"
    )
    command.add_argument(
        "--batch-size", type=int, default=256, metavar="N", help="default: %(default)s"
    )
    command.set_defaults(run=_predict)
    return parser


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "model",
        type=Path,
        metavar="FILE",
        help="a file that Model.save wrote; or an .onnx or .keras file",
    )
    command.add_argument(
        "--import",
        action="append",
        default=[],
        dest="modules",
        metavar="MODULE",
        help="import this module first, which registers layers or losses of your own",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(argv)
    try:
        code = options.run(options) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _load(options: argparse.Namespace) -> Model:
    for module in options.modules:
        importlib.import_module(module)
    suffix = options.model.suffix.lower()
    if suffix == ".keras":
        return importlib.import_module("npdl.convert").load_keras(options.model)
    return _onnx().import_onnx(options.model) if suffix == ".onnx" else load_model(options.model)


def _failure(error: Exception) -> int:
    print(f"npdl: error: {error}", file=sys.stderr)
    return 1


def _summary(options: argparse.Namespace) -> int:
    try:
        model = _load(options)
    except (OSError, ValueError, TypeError, ImportError) as error:
        return _failure(error)
    model.summary()
    return 0


def _plot(options: argparse.Namespace) -> int:
    path = options.out or options.model.with_suffix(".svg")
    try:
        if path == options.model:
            raise ValueError(f"The drawing must not replace the model. Received: {path}")
        plot_model(_load(options), path)
    except (OSError, ValueError, TypeError, ImportError) as error:
        return _failure(error)
    print(path)
    return 0


def _export(options: argparse.Namespace) -> int:
    return _converted(options, lambda: _onnx().export_onnx(_load(options), options.out), True)


def _import(options: argparse.Namespace) -> int:
    return _converted(options, lambda: _onnx().import_onnx(options.model).save(options.out), False)


def _onnx() -> Any:
    # It needs an additional package.
    return importlib.import_module("npdl.onnx")


def _converted(options: argparse.Namespace, convert: Callable[[], None], to_onnx: bool) -> int:
    out = options.out
    try:
        if out == options.model:
            raise ValueError(f"The file must not be replaced. Received: {out}")
        if to_onnx and out.suffix.lower() != ".onnx":
            raise ValueError(f"The name of the ONNX file must end in .onnx. Received: {out}")
        if not to_onnx and out.suffix.lower() in (".onnx", ".keras"):
            rule = "The name of a file of npdl must not end in .onnx or .keras"
            raise ValueError(f"{rule}. Received: {out}")
        convert()
    except (OSError, ValueError, TypeError, ImportError) as error:
        return _failure(error)
    print(out)
    return 0


def _predict(options: argparse.Namespace) -> int:
    try:
        if options.out is not None:
            _check_suffix(options.out)
        x = _read(options.data)
        model = _load(options)
        outputs = model.predict(_shaped(x, model), batch_size=options.batch_size)
        if options.classes:
            single = outputs.ndim == 1 or outputs.shape[-1] == 1
            outputs = (outputs > 0.5).astype(np.int64) if single else outputs.argmax(-1)
        _write(outputs, options.out)
    except BrokenPipeError:
        raise
    except (OSError, ValueError, TypeError, ImportError, RuntimeError) as error:
        return _failure(error)
    return 0


def _check_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".csv"):
        raise ValueError(f"The name of a file of data must end in .npy or .csv. Received: {path}")
    return suffix


def _read(path: Path) -> NDArray:
    """Read an array, or lines of numbers with or without a header line."""
    if _check_suffix(path) == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False)
    with path.open(encoding="utf-8-sig") as file:
        titles = not _are_numbers(file.readline())
        file.seek(0)
        values = np.loadtxt(file, delimiter=",", skiprows=int(titles), ndmin=2)
    if not values.size:
        raise ValueError(f"The file of data must hold numbers. Received: none in {path}")
    return values


def _are_numbers(line: str) -> bool:
    try:
        [float(cell) for cell in line.split(",")]
    except ValueError:
        return False
    return True


def _shaped(x: NDArray, model: Model) -> NDArray:
    """Rows of values in the shape that the model was built for; word numbers as integers."""
    first = model.layers[0]
    shape = getattr(first.prev_layer, "out_shape", None) or first.in_shape
    if x.ndim == 2 and shape is not None and len(shape) > 2 and None not in shape[1:]:
        size = int(np.prod(shape[1:]))  # type: ignore[arg-type]
        if x.shape[1] != size:
            sizes = " × ".join(map(str, shape[1:]))
            rule = f"A line of data must hold {size} values, for {sizes}"
            raise ValueError(f"{rule}. Received: {x.shape[1]}")
        x = x.reshape(len(x), *shape[1:])
    if isinstance(first, Embedding) and x.dtype.kind == "f" and np.array_equal(x, np.trunc(x)):
        x = x.astype(np.int64)
    return x


def _write(outputs: NDArray, path: Path | None) -> None:
    to_array = path is not None and path.suffix.lower() == ".npy"
    if outputs.ndim > 2 and not to_array:
        rule = "Outputs of more than two axes need a .npy file: --out FILE.npy"
        raise ValueError(f"{rule}. Received: shape {outputs.shape}")
    if path is None:
        _write_csv(sys.stdout, outputs)
        return
    with atomic_write(path) as file:
        if to_array:
            np.save(file, outputs, allow_pickle=False)
        else:
            _write_csv(file, outputs)


def _write_csv(file: IO[Any], outputs: NDArray) -> None:
    form = "%d" if outputs.dtype.kind in "iu" else "%.9g"  # enough for the bits of a float32
    np.savetxt(file, outputs, fmt=form, delimiter=",")
