"""The command line: ``python -m npdl demo``, ``verify`` or ``info``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from npdl import config, demo, verify
from npdl._version import __version__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m npdl", description="Train neural networks on the CPU you already have."
    )
    parser.add_argument("--version", action="version", version=f"npdl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("demo", help="train a CNN on handwritten digits")
    demo.add_arguments(command)
    command.set_defaults(run=demo.run)

    command = commands.add_parser("verify", help="compare the Cython kernels with their twins")
    command.set_defaults(run=lambda options: verify.run())

    command = commands.add_parser("info", help="show what npdl runs on here")
    command.set_defaults(run=lambda options: config.show_config())
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(argv)
    return options.run(options) or 0
