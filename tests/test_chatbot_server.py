"""The server of the chatbot: answers, refused requests, and shutdown."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from npdl.data import Vocabulary
from npdl.utils import set_seed

EXAMPLES = Path(__file__).parents[1] / "examples"
if not (EXAMPLES / "chatbot").exists():
    pytest.skip("needs the source tree", allow_module_level=True)
pytest.importorskip("starlette", reason="the page needs the extra npdl[chat]")
pytest.importorskip("uvicorn", reason="the page needs the extra npdl[chat]")
sys.path.insert(0, str(EXAMPLES))

from chatbot import network, server  # noqa: E402
from chatbot.talker import Talker  # noqa: E402

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def talker():
    """A network that has learned nothing."""
    set_seed(1)
    questions = Vocabulary().fit(["hello you what is up"])
    answers = Vocabulary(lower=False).fit(["Not much, how are you? Fine."])
    model = network.build(len(questions), len(answers), width=8, units=8, dropout=0)
    return Talker(model, questions, answers, {"starters": ["Hello"]})


@contextmanager
def serving(talker, **options):
    """The port of a server that runs in a thread."""
    running = server.Server(server.make_app(talker, **options), port=0)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive()
            thread.join(0.01)
        yield int(running.url.rpartition(":")[2].strip("/"))
    finally:
        running.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port(talker):
    with serving(talker, rate=1000.0, burst=1000) as port:
        yield port


def request(port, method="POST", path="/ask", body=None, headers=JSON):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response, response.read().decode()
    finally:
        connection.close()


def ask(port, **content):
    response, text = request(port, body=json.dumps(content))
    assert response.status == 200
    return [json.loads(line) for line in text.splitlines()]


def test_page(port):
    response, page = request(port, "GET", "/")
    assert response.status == 200 and response.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    for name in re.findall(r'(?:src|href)="([\w.]+)"', page):
        assert request(port, "GET", f"/{name}")[0].status == 200
    assert json.loads(request(port, "GET", "/about")[1])["starters"] == ["Hello"]


def test_nothing_is_shown_as_html():
    page = (server.PAGE / "index.html").read_text("utf-8")
    script = (server.PAGE / "chat.js").read_text("utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)
    assert not re.search(r"<style|\son\w+=|\sstyle=|<script>", page)  # the policy forbids these


def test_an_answer_comes_word_by_word(port, talker):
    first, *steps, last = ask(port, question="Hello, what's ûp\ud800 <b>you</b>?")
    assert first["words"] == ["hello", "what", "is", "ûp", "b", "you", "b"]
    assert first["known"] == [True, True, True, False, False, True, False]
    assert steps
    for step in steps:
        assert len(step["attention"]) == 7 and abs(sum(step["attention"]) - 1) < 0.01
        assert 0 <= step["probability"] <= 1
    assert "".join(step["word"] for step in steps) == last["answer"]
    assert last["answer"] == talker.answer("hello what is ûp b you b")
    assert all(0 <= best["probability"] <= 1 for best in last["best"])


def test_sampled_answers(talker):
    with serving(talker, seed=7, rate=1000.0) as port:
        answers = [ask(port, question="hello", temperature=2)[-1]["answer"] for _ in range(2)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "body, status, message",
    [
        ('{"question": "', 400, "valid JSON"),
        (b"\xff\xfe", 400, "valid JSON"),
        ("[" * 4000, 400, "valid JSON"),
        ("[]", 400, "an object"),
        ("{}", 422, "must be a text"),
        ('{"question": 3}', 422, "must be a text"),
        ('{"question": " ?! "}', 422, "a word"),
        (json.dumps({"question": "x" * 201}), 422, "at most 200 characters"),
        (json.dumps({"question": "x " * 100}), 422, "at most 20 words"),
        (json.dumps({"question": "x" * 5000}), 413, "at most 4096 bytes"),
        ('{"question": "hello", "temperature": NaN}', 422, "[0, 2]"),
        ('{"question": "hello", "temperature": 2.1}', 422, "[0, 2]"),
        ('{"question": "hello", "temperature": true}', 422, "[0, 2]"),
        ('{"question": "hello", "temperature": "1"}', 422, "[0, 2]"),
        ('{"question": "hello", "temperature": 1e999}', 422, "[0, 2]"),
        (f'{{"question": "hello", "temperature": 1{"0" * 400}}}', 422, "[0, 2]"),
    ],
)
def test_what_is_refused(port, body, status, message):
    response, text = request(port, body=body)
    assert (response.status, message in json.loads(text)["error"]) == (status, True), text
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "options, status",
    [
        ({"headers": {"Content-Type": "text/plain"}}, 415),  # what another site could send
        ({"headers": {**JSON, "Host": "elsewhere.example"}}, 400),
        ({"method": "GET"}, 405),
        ({"path": "/../server.py"}, 404),
        ({"path": "/nothing"}, 404),
    ],
)
def test_requests_of_other_kinds(port, options, status):
    assert request(port, body='{"question": "hello"}', **options)[0].status == status


def test_too_many_questions(talker):
    with serving(talker, rate=0.01, burst=2) as port:
        ask(port, question="hello")
        ask(port, question="hello")
        response, text = request(port, body='{"question": "hello"}')
        assert request(port, "GET", "/")[0].status == 200
    assert response.status == 429 and 90 <= int(response.headers["Retry-After"]) <= 100
    assert "too fast" in json.loads(text)["error"]


def test_a_hundred_clients_at_once(port, talker):
    expected = talker.answer("hello you")
    together = threading.Barrier(100)

    def client(_):
        together.wait()
        return ask(port, question="Hello you")[-1]["answer"]

    with ThreadPoolExecutor(100) as pool:
        assert set(pool.map(client, range(100))) == {expected}


def test_clients_that_leave_or_dawdle(port, monkeypatch):
    monkeypatch.setattr(server, "PATIENCE", 0.05)
    head = b"POST /ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    body = b'{"question": "hello"}'
    with socket.create_connection(("127.0.0.1", port)) as client:  # asks, and leaves
        client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    with socket.create_connection(("127.0.0.1", port)) as client:  # never sends all of it
        client.sendall(head + b"Content-Length: 100\r\n\r\n" + body)
        assert client.recv(100).startswith(b"HTTP/1.1 408")
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"\x00\x01nonsense\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400")
    assert ask(port, question="hello")


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_stops_it(talker, tmp_path):
    network.save(tmp_path, talker.model, talker.questions, talker.answers, {})
    command = [sys.executable, str(EXAMPLES / "chatbot"), "serve", "--folder", str(tmp_path)]
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        port = int(re.search(r"127\.0\.0\.1:(\d+)/", line)[1])
        assert ask(port, question="hello")
        with socket.create_connection(("127.0.0.1", port)):  # one that says nothing
            process.send_signal(signal.SIGINT)
            rest = process.communicate()[0]
    assert process.returncode == 0 and rest.strip() == "stopped"


def test_a_port_that_is_taken(talker, tmp_path):
    network.save(tmp_path, talker.model, talker.questions, talker.answers, {})
    command = [sys.executable, str(EXAMPLES / "chatbot"), "serve", "--folder", str(tmp_path)]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = subprocess.run([*command, "--port", port], capture_output=True, text=True)
    assert done.returncode == 1 and "address already in use" in done.stderr
