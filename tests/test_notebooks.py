"""The notebooks run, and hold what they showed when tools/run_notebooks.py ran them."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"

if not FOLDER.exists():
    pytest.skip("needs the source tree", allow_module_level=True)

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@each_notebook
def test_its_code_runs(path, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    names = {"__name__": "__main__"}
    for i, cell in enumerate(code_cells(path), 1):
        exec(compile("".join(cell["source"]), f"{path.name}, cell {i}", "exec"), names)
    if "score" in names:
        assert names["score"].accuracy > 0.94
    if "right" in names:
        assert names["right"] > 0.9


@each_notebook
def test_its_outputs_are_there(path):
    outputs = [output for cell in code_cells(path) for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {
        "stream",
        "execute_result",
        "display_data",
    }
    kinds = {kind for output in outputs for kind in output.get("data", ())}
    assert "image/png" in kinds
    assert path.stat().st_size < 200_000
