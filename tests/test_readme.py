"""The Python code in README.md runs."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"

if not README.exists():
    pytest.skip("needs the source tree", allow_module_level=True)

BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def test_code_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # some of it writes files
    names = {"__name__": "readme"}
    assert len(BLOCKS) >= 3
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), names)
    assert names["score"].accuracy > 0.95


def test_first_example_has_ten_lines():
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 10
