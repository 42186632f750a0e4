"""The pages in docs/: their code runs, and what they link to is there."""

import re
from pathlib import Path

import pytest

import npdl

DOCS = Path(__file__).parents[1] / "docs"

if not DOCS.exists():
    pytest.skip("needs the source tree", allow_module_level=True)

PAGES = sorted(DOCS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.M):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_exist(page):
    for name in re.findall(r"`npdl\.([\w.]+)", page.read_text("utf-8")):
        thing = npdl
        for part in name.rstrip(".").split("."):
            thing = getattr(thing, part)


def test_every_picture_is_shown():
    text = "".join(page.read_text("utf-8") for page in PAGES)
    for picture in (DOCS / "pictures").iterdir():
        assert f"pictures/{picture.name}" in text
        assert picture.stat().st_size < 200_000
