"""Print requirements from pyproject.toml, one per line, for ``pip install -r``.

python tools/requirements.py build          what setup.py needs
python tools/requirements.py run test plot  what npdl needs to run, and two of its extras
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(*names: str) -> list[str]:
    """The requirements of ``"build"``, of ``"run"``, or of an extra."""
    with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
        table = tomllib.load(file)
    lists = {
        "build": table["build-system"]["requires"],
        "run": table["project"]["dependencies"],
        **table["project"]["optional-dependencies"],
        **table["dependency-groups"],
    }
    return [requirement for name in names for requirement in lists[name]]


if __name__ == "__main__":
    print(*requirements(*sys.argv[1:]), sep="\n")
