"""Run the Python code of a Markdown page, block by block, in the current folder.

python tools/run_page.py docs/tutorials/mlp.md   prints what the page shows, and draws its pictures
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any


def blocks(page: Path) -> list[str]:
    """The Python blocks of a page, padded so that line numbers in errors are those of the page."""
    text = page.read_text("utf-8")
    found = re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return ["\n" * text.count("\n", 0, match.start(1)) + match[1] for match in found]


def run(page: Path) -> dict[str, Any]:
    """Run a page, and return the names that its code defined."""
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)
    return names


if __name__ == "__main__":
    run(Path(sys.argv[1]))
