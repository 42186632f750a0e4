"""npdl in the browser: built by tools/browser.py, run in Pyodide under Node and in Chromium."""

import functools
import http.server
import json
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
if not (ROOT / "tools" / "browser.py").exists():
    pytest.skip("needs the source tree", allow_module_level=True)
TOOL = runpy.run_path(str(ROOT / "tools" / "browser.py"))
PAGE = ROOT / "docs" / "_static" / "browser"
OUT = TOOL["OUT"]
BUILT = list(OUT.glob("npdl-*.whl")) and list(OUT.glob("numpy-*.zip"))

needs_build = pytest.mark.skipif(
    not BUILT or not shutil.which("node"),
    reason="needs node, and python tools/browser.py wheel and numpy",
)

EPOCHS = 10
CODE = (PAGE / "train.py").read_text("utf-8")
SCRIPT = f"""{CODE}
import zlib

about()
train({EPOCHS}, print)
print(json.dumps(zlib.crc32(b"".join(array.tobytes() for array in model.weights.values()))))
"""


def figures(told):
    """The output without times."""
    return [(one["loss"], one["accuracy"], one["test"]) for one in told]


def results(printed):
    """The results of the epochs, and the checksum of the weights."""
    *told, checksum = map(json.loads, printed.splitlines())
    return figures(told), checksum


@pytest.fixture(scope="module")
def native():
    """The results outside the browser, of the kernels for x86-64 without AVX, which round alike."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("other machines round differently")
    if not [*(ROOT / "npdl" / "_ext").glob("conv_base.*")]:
        pytest.skip("needs the kernels of base")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        **{"capture_output": True, "text": True, "cwd": ROOT},
        env={**os.environ, "NPDL_BACKEND": "cython", "NPDL_ISA": "base"},
    )
    assert done.returncode == 0, done.stderr
    return results(done.stdout)


def test_what_the_page_runs():
    """Run the code in this Python."""
    names, told = {}, []
    exec(compile(CODE, "train.py", "exec"), names)
    names["train"](1, lambda text: told.append(json.loads(text)))
    assert told[0]["epoch"] == 1 and told[0]["test"] > 0.4
    probabilities = json.loads(names["read"](names["sample"]()))
    assert len(probabilities) == 10 and abs(sum(probabilities) - 1) < 1e-5
    assert "NumPy" in names["about"]()


def test_page_is_plain():
    """The page loads nothing from other sites and never inserts strings as HTML."""
    for name in ("index.html", "page.js", "worker.js", "page.css"):
        text = (PAGE / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http" not in text and "innerHTML" not in text


def test_options_of_this_machine_are_dropped(monkeypatch):
    own = f"-I{ROOT}/npdl/_ext"
    given = [
        "-pthread",
        "-O3",
        own,
        "-I/usr/include/python3.11",
        "-Wl,-s",
        "-c",
        "a.c",
        "-o",
        "a.o",
    ]
    assert TOOL["filtered"](given) == ["-O3", own, "-c", "a.c", "-o", "a.o"]


def test_headers_are_changed_or_refused(tmp_path):
    path = tmp_path / "pyconfig.h"
    path.write_text("#define SIZEOF_LONG 8\n")
    TOOL["replace"](path, r"(#define SIZEOF_LONG) \d+", r"\1 4")
    assert path.read_text() == "#define SIZEOF_LONG 4\n"
    with pytest.raises(ValueError, match=r"must have 'x' 1 times\. Received: 0"):
        TOOL["replace"](path, "x", "y")


@pytest.mark.slow
@needs_build
def test_training_in_node_has_the_same_bits(native, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT, "utf-8")
    command = [sys.executable, str(ROOT / "tools" / "browser.py"), "run", str(path)]
    there = subprocess.run(command, capture_output=True, text=True)
    assert there.returncode == 0, there.stderr
    assert results(there.stdout) == native and len(native[0]) == EPOCHS


@pytest.mark.slow
@needs_build
def test_kernels_agree_with_their_twins_in_node(tmp_path):
    path = tmp_path / "script.py"
    path.write_text("import sys, npdl.verify\nsys.exit(npdl.verify.run())\n", "utf-8")
    command = [sys.executable, str(ROOT / "tools" / "browser.py"), "run", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def site(tmp_path):
    TOOL["make_site"](tmp_path / "site")
    handler = functools.partial(Quiet, directory=tmp_path / "site")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
@needs_build
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # selenium's sockets
def test_training_on_the_page_has_the_same_bits(native, site):
    pytest.importorskip("selenium", reason="needs selenium")
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,900"):
        options.add_argument(flag)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    try:
        browser.get(site)

        def text(name):
            return browser.find_element(By.ID, name).text

        def wait(condition):
            WebDriverWait(browser, 120, 0.1).until(lambda _: condition())

        wait(lambda: text("state").startswith("Ready"))
        listen = "document.addEventListener('epoch', (event) => told.push(event.detail))"
        browser.execute_script(f"window.told = []; {listen}")
        browser.find_element(By.ID, "train").click()
        wait(lambda: text("state").startswith("Trained"))
        assert float(re.search(r"digits ([\d.]+)", text("figures"))[1]) > 93
        assert figures(browser.execute_script("return told")) == native[0]
        canvas = browser.find_element(By.ID, "canvas")
        actions = webdriver.ActionChains(browser)  # a stroke down: a one
        actions.move_to_element_with_offset(canvas, 0, -80).click_and_hold()
        actions.move_by_offset(0, 80).move_by_offset(0, 80).release().perform()
        wait(lambda: text("answer").startswith("This is a 1"))
        browser.find_element(By.ID, "sample").click()
        wait(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#bars li")) == 10)
        assert not [one for one in browser.get_log("browser") if one["level"] == "SEVERE"]
    finally:
        browser.quit()
