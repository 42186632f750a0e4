"""``python -m npdl``."""

import argparse
import io
import subprocess
import sys

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


def test_show_config_tells_the_active_backend():
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
    for option, text in [("--help", "demo"), ("--version", npdl.__version__)]:
        with pytest.raises(SystemExit) as stop:
            cli.main([option])
        assert stop.value.code == 0 and text in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["dance"], ["demo", "--epochs", "many"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2 and "usage: python -m npdl" in capsys.readouterr().err
