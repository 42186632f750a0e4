"""The pages in docs/: their code runs, their links work, and the site has every name."""

import re
import runpy
from pathlib import Path

import pytest

import npdl

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

if not DOCS.exists():
    pytest.skip("needs the source tree", allow_module_level=True)

PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
PAGE = runpy.run_path(str(ROOT / "tools" / "run_page.py"))

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pytest.mark.parametrize("page", [p for p in PAGES if PAGE["blocks"](p)], ids=lambda p: p.name)
def test_code_runs(page, tmp_path, monkeypatch, capsys):
    if "savefig" in page.read_text("utf-8"):
        pytest.importorskip("matplotlib").use("agg")
    monkeypatch.chdir(tmp_path)
    names = PAGE["run"](page)
    if page.parent.name == "tutorials":
        assert names["score"].accuracy > 0.94


@each_page
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@each_page
def test_names_exist(page):
    for name in re.findall(r"`npdl\.([\w.]+)", page.read_text("utf-8")):
        thing = npdl
        for part in name.rstrip(".").split("."):
            thing = getattr(thing, part)


@each_page
def test_included_code_is_there(page):
    """The marks between which a page shows a part of a file."""
    text = page.read_text("utf-8")
    for file, options in re.findall(r"^```\{\w*include\} (\S+)\n((?::.*\n)*)", text, re.MULTILINE):
        shown = (page.parent / file).read_text("utf-8")
        for option, mark in re.findall(r"^:(start-\w+|end-\w+|pyobject): (.*)$", options, re.M):
            mark = f"def {mark}(" if option == "pyobject" else mark.strip('"')
            assert mark in shown, f"{page.name} shows {file} from or up to {mark!r}: mend the page"


def test_every_picture_is_shown():
    text = "".join(page.read_text("utf-8") for page in PAGES)
    for picture in (DOCS / "pictures").iterdir():
        assert f"pictures/{picture.name}" in text
        assert picture.stat().st_size < 200_000


def test_every_page_is_in_the_index():
    index = (DOCS / "index.md").read_text("utf-8")
    for page in PAGES:
        name = page.relative_to(DOCS).with_suffix("").as_posix()
        assert name == "index" or re.search(rf"^{name}$|^.* <{name}>$", index, re.MULTILINE), name


def test_reference_has_every_public_module():
    """With `__all__`, Sphinx finds the names."""
    index = (DOCS / "api" / "index.rst").read_text("utf-8").split()
    modules = [name for name in npdl.__all__ if isinstance(getattr(npdl, name), type(npdl))]
    for name in {*modules, "saving"} - {"model"}:  # `npdl.model` has only `Model`
        assert name in index
        assert f"automodule:: npdl.{name}\n" in (DOCS / "api" / f"{name}.rst").read_text("utf-8")


def test_pictures_of_kernels_are_up_to_date(tmp_path, monkeypatch):
    """tools/draw_kernels.py draws what docs/pictures holds."""
    script = runpy.run_path(str(ROOT / "tools" / "draw_kernels.py"))
    monkeypatch.setitem(script["Picture"].save.__globals__, "OUT", tmp_path)
    for draw in ("im2col", "planes", "pooling", "lstm"):
        script[draw]()
    for path in tmp_path.iterdir():
        assert path.read_text("utf-8") == (DOCS / "pictures" / path.name).read_text("utf-8")


def test_chart_of_benchmarks_is_up_to_date():
    """If not: python tools/draw_benchmarks.py."""
    script = runpy.run_path(str(ROOT / "tools" / "draw_benchmarks.py"))
    chart = (DOCS / "pictures" / "benchmarks.svg").read_text("utf-8")
    assert script["draw"]() == chart, "run python tools/draw_benchmarks.py"


def test_architecture_shows_the_same_modules():
    levels = runpy.run_path(str(ROOT / "tests" / "test_architecture.py"))["LEVELS"]
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    level_2 = text.partition("| level 2 | |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` ", level_2, re.M) == levels[2]
    shown = {level: [] for level in (0, 1, 3)}
    for level, names in re.findall(r"^\| ([013]) \| [^|]* \| (.*) \|$", text, re.M):
        shown[int(level)] += re.findall(r"`(\w+)`", names)
    for level, names in shown.items():
        assert sorted(names) == sorted(levels[level])
