"""``python -m npdl``."""

import argparse
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import npdl
from npdl import cli, demo, verify


def test_info_as_a_process():
    run = subprocess.run(
        [sys.executable, "-m", "npdl", "info"], capture_output=True, text=True, check=True
    )
    rows = dict(line.split(maxsplit=1) for line in run.stdout.splitlines())
    assert rows["npdl"] == npdl.__version__
    assert rows["backend"].split()[0] in rows["available"].split(", ")
    assert {"numpy", "python", "platform"} <= rows.keys()


def test_show_config_shows_the_active_backend():
    file = io.StringIO()
    with npdl.use_backend("numpy"):
        npdl.show_config(file)
    rows = dict(line.split(maxsplit=1) for line in file.getvalue().splitlines())
    assert rows["backend"] == "numpy"


def test_options_of_the_demo(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(demo, "run", lambda options: seen.append(options) or 3)
    assert cli.main(["demo", "--out", str(tmp_path), "--epochs", "2", "--seed", "7"]) == 3
    assert (seen[0].out, seen[0].epochs, seen[0].seed) == (tmp_path, 2, 7)
    cli.main(["demo"])
    assert isinstance(seen[1], argparse.Namespace) and str(seen[1].out) == "demo"


@pytest.mark.parametrize("code", [0, 1, 2])
def test_verify_hands_on_its_exit_code(monkeypatch, code):
    monkeypatch.setattr(verify, "run", lambda: code)
    assert cli.main(["verify"]) == code


def test_help_and_version(capsys):
    cases = [(["--help"], "demo"), (["--version"], npdl.__version__)]
    for command in ("demo", "verify", "info", "summary", "plot", "export", "import", "predict"):
        cases.append(([command, "--help"], "exit codes: 0 "))
    for option, text in cases:
        with pytest.raises(SystemExit) as stop:
            cli.main(option)
        assert stop.value.code == 0 and text in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["dance"], ["demo", "--epochs", "many"], ["summary"], ["plot"], ["predict", "model"]),
        *(["export", "model"], ["import", "model.onnx"]),
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2 and "usage: python -m npdl" in capsys.readouterr().err


# ----------------------------------------------------------------------------- summary and predict


@pytest.fixture
def saved(tmp_path):
    """A model that takes images (1, 2, 3), and the path of its file."""
    flatten, softmax = npdl.layers.Flatten(), npdl.layers.Softmax(4)
    model = npdl.Model([flatten, softmax])
    model.compile()
    model.build((None, 1, 2, 3))
    path = tmp_path / "model.npdl"
    model.save(path)
    return model, path


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_summary_of_a_file(saved, capsys):
    model, path = saved
    assert run("summary", path) == 0
    shown = capsys.readouterr().out
    model.summary()
    assert shown == capsys.readouterr().out and "softmax_1" in shown


@pytest.mark.parametrize("options", [[], ["-o", "out.svg"], ["--out", "out.svg"]])
def test_plot_of_a_file(saved, tmp_path, monkeypatch, capsys, options):
    model, path = saved
    monkeypatch.chdir(tmp_path)
    assert run("plot", path, *options) == 0
    out = Path("out.svg") if options else path.with_suffix(".svg")
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_text("utf-8") == npdl.plot_model(model, None)


def test_export_and_import(saved, tmp_path, capsys):
    pytest.importorskip("onnx", reason="needs npdl[onnx]")
    model, path = saved
    there, back = tmp_path / "m.onnx", tmp_path / "back"
    assert run("export", path, there) == 0 and run("import", there, back) == 0
    assert capsys.readouterr().out == f"{there}\n{back}\n"
    assert npdl.load_model(back).to_json()["layers"] == model.to_json()["layers"]
    before = path.read_bytes()
    for command, *files, message in (
        ("export", "nothing", "out.onnx", "No such file"),
        ("import", "nothing", "out", "No such file"),
        ("export", path, path, "must not be replaced"),
        ("import", path, path, "must not be replaced"),
        ("export", there, path, "must end in .onnx"),  # in the wrong order
        ("import", there, "back.onnx", "must not end in .onnx or .keras"),
        ("import", path, "back", "no ONNX file"),
        ("import", there, "no/folder", "Nothing was written"),
    ):
        assert run(command, *(tmp_path / file for file in files)) == 1
        assert message in capsys.readouterr().err
    assert path.read_bytes() == before


def test_files_of_onnx_and_keras_are_recognized(saved, tmp_path, capsys):
    pytest.importorskip("onnx", reason="needs npdl[onnx]")
    pytest.importorskip("h5py", reason="needs npdl[keras]")
    path = tmp_path / "m.onnx"
    assert run("export", saved[1], path) == 0 and run("summary", path) == 0
    assert "softmax_1" in capsys.readouterr().out
    keras = Path(__file__).parent / "golden" / "weights" / "words.keras"
    assert run("summary", keras) == 0 and run("plot", keras, "-o", tmp_path / "w.svg") == 0
    assert run("export", keras, tmp_path / "w.onnx") == 0
    assert "bidirectional" in capsys.readouterr().out and (tmp_path / "w.onnx").exists()
    path.write_bytes(b"nothing")
    assert run("summary", path) == 1 and "no ONNX file" in capsys.readouterr().err


def test_plot_says_what_failed(saved, tmp_path, capsys):
    _, path = saved
    before = path.read_bytes()
    for model, out, message in (
        (tmp_path / "none", tmp_path / "x.svg", "No such file"),
        (path, tmp_path / "x.pdf", "`to_file` must end in .svg or .png"),
        (path, path, "must not replace the model"),
    ):
        assert run("plot", model, "-o", out) == 1
        assert message in capsys.readouterr().err and not (tmp_path / "x.svg").exists()
    assert path.read_bytes() == before


@pytest.mark.parametrize("out", [None, "out.csv", "out.npy", "OUT.NPY"])
@pytest.mark.parametrize("form", ["npy", "csv", "titles"])
def test_predict(saved, tmp_path, rng, capsys, form, out):
    model, path = saved
    x = rng.random((5, 1, 2, 3), np.float32)
    data = tmp_path / ("x.npy" if form == "npy" else "x.csv")
    if form == "npy":
        np.save(data, x)
    else:
        titles = "\ufeffa,b,c,d,e,f" if form == "titles" else ""
        np.savetxt(data, x.reshape(5, 6), delimiter=",", header=titles, comments="")
        if not titles:
            data.write_text(data.read_text().lstrip())
    options = [] if out is None else ["--out", tmp_path / out]
    assert run("predict", path, data, *options) == 0
    shown = capsys.readouterr().out
    if out is None:
        got = np.loadtxt(io.StringIO(shown), delimiter=",")
    elif out == "out.csv":
        got = np.loadtxt(tmp_path / out, delimiter=",")
    else:
        got = np.load(tmp_path / out)
    np.testing.assert_array_equal(got.astype(np.float32), model.predict(x))
    assert (shown == "") == (out is not None)


def test_predict_classes(saved, tmp_path, rng, capsys):
    model, path = saved
    x = rng.standard_normal((7, 1, 2, 3))
    np.save(tmp_path / "x.npy", x)
    assert run("predict", path, tmp_path / "x.npy", "--classes", "--batch-size", 2) == 0
    assert capsys.readouterr().out.split() == [str(k) for k in model.predict(x).argmax(1)]


def test_a_single_output_is_yes_or_no(tmp_path, capsys):
    model = npdl.Model([npdl.layers.Dense(1, n_in=1, activation="sigmoid")])
    model.compile("bce")
    model.layers[0].W, model.layers[0].b = [[1]], [0]
    model.save(tmp_path / "model")
    (tmp_path / "x.csv").write_text("-3\n4\n")
    assert run("predict", tmp_path / "model", tmp_path / "x.csv", "--classes") == 0
    assert capsys.readouterr().out.split() == ["0", "1"]


def test_word_numbers_of_a_csv_are_integers(tmp_path, capsys):
    model = npdl.Model([npdl.layers.Embedding(input_size=9, n_out=2), npdl.layers.LSTM(n_out=3)])
    model.compile("mse")
    model.save(tmp_path / "model")
    (tmp_path / "x.csv").write_text("1,2,8\n")
    assert run("predict", tmp_path / "model", tmp_path / "x.csv") == 0
    got = np.array(capsys.readouterr().out.split(","), np.float32)
    np.testing.assert_array_equal(got, model.predict([[1, 2, 8]])[0])


def test_a_sequence_goes_only_to_npy(tmp_path, capsys):
    model = npdl.Model([npdl.layers.LSTM(n_out=3, n_in=2, return_sequence=True)])
    model.compile("mse")
    model.save(tmp_path / "model")
    np.save(tmp_path / "x.npy", np.ones((1, 4, 2)))
    assert run("predict", tmp_path / "model", tmp_path / "x.npy") == 1
    assert "--out FILE.npy" in capsys.readouterr().err
    out = tmp_path / "y.npy"
    assert run("predict", tmp_path / "model", tmp_path / "x.npy", "--out", out) == 0
    assert np.load(out).shape == (1, 4, 3)


@pytest.mark.parametrize(
    "name, content, error",
    [
        ("x.csv", "1,2\n", "must hold 6 values, for 1 × 2 × 3. Received: 2"),
        ("x.csv", "1,2,3,4,5,6\n1,oops,3,4,5,6\n", "oops"),
        ("x.csv", "titles,alone\n", "must hold numbers"),
        ("x.npy", "not an array", "pickle"),
        ("x.txt", "1", "must end in .npy or .csv"),
        ("x.npy", None, "No such file"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_wrong_data_fails_with_a_line(saved, tmp_path, capsys, name, content, error):
    if content is not None:
        (tmp_path / name).write_text(content)
    assert run("predict", saved[1], tmp_path / name) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("npdl: error: ") and error in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["summary", "predict"])
def test_a_wrong_model_fails_with_a_line(tmp_path, capsys, command):
    np.save(tmp_path / "x.npy", np.ones((2, 2)))
    more = [tmp_path / "x.npy"] if command == "predict" else []
    for content in (None, b"", b"something else", bytes(1000)):
        if content is not None:
            (tmp_path / "model").write_bytes(content)
        assert run(command, tmp_path / "model", *more) == 1
        assert capsys.readouterr().err.startswith("npdl: error: ")


def test_modules_with_layers_of_ones_own(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "import npdl\n"
        "@npdl.saving.register\n"
        "class Own(npdl.layers.Dense):\n"
        "    pass\n"
        "if __name__ == '__main__':\n"
        "    model = npdl.Model([Own(2, n_in=3)])\n"
        "    model.compile('mse')\n"
        "    model.save('model')\n"
    )

    def python(*arguments):
        environment = os.environ | {"PYTHONPATH": str(Path(npdl.__file__).parents[1])}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=environment,
        )

    assert python("mine.py").returncode == 0
    assert run("summary", tmp_path / "model") == 1 and "Own" in capsys.readouterr().err
    shown = python("-m", "npdl", "summary", "model", "--import", "mine")
    assert shown.returncode == 0 and "Own" in shown.stdout
    assert run("summary", tmp_path / "model", "--import", "nowhere") == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error(saved, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((50_000, 1, 2, 3), np.float32))
    process = subprocess.Popen(
        [sys.executable, "-m", "npdl", "predict", saved[1], tmp_path / "x.npy"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 0
    process.stderr.close()
