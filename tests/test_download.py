"""Downloads from a local server that disconnects, sends wrong data, or is slow."""

import hashlib
import http.server
import socket
import subprocess
import sys
import threading

import pytest

from npdl.datasets import _download, _files

PAYLOAD = bytes(range(251)) * 4000  # one million bytes
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()
NAME = "data.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(self.headers.get("Range"))
        server.behave(self, int((self.headers.get("Range") or "bytes=0-")[6:-1]))

    def send(self, body, status=200, start=0, length=None, chunk=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if status == 206:
            end = start + len(body) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(PAYLOAD)}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def whole(handler, start):
    if start:
        handler.send(PAYLOAD[start:], 206, start)
    else:
        handler.send(PAYLOAD)


def breaks_off(handler, start):
    """Sends 300,000 bytes at a time, and promises all."""
    rest = PAYLOAD[start:]
    handler.send(rest[:300_000], 206 if start else 200, start, length=len(rest))
    handler.close_connection = True


def without_ranges(handler, start):
    if len(handler.server.requests) <= 2:
        handler.send(PAYLOAD[:400_000], length=len(PAYLOAD))
    else:
        handler.send(PAYLOAD)


@pytest.fixture
def server(monkeypatch):
    """A server on the loopback interface; ``server.behave`` is what it does with a request."""
    monkeypatch.setattr(_download, "PAUSE", 0.01)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.requests, server.behave = [], whole
    server.handle_error = lambda *args: None  # the client may have gone
    server.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NPDL_DATA", str(tmp_path))
    return tmp_path / "thing"


def source(*urls):
    return _files.Source("thing", urls, {NAME: (len(PAYLOAD), SHA256)})


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_file_is_downloaded_once(server, cache, capsys):
    for _ in range(2):
        assert _files.find(source(server.url), None) == cache
    assert (cache / NAME).read_bytes() == PAYLOAD
    assert server.requests == [None] and names(cache) == [NAME]
    assert capsys.readouterr().err == f"downloading {server.url}{NAME} (1,004,000 bytes)\n"


def test_what_breaks_off_is_carried_on(server, cache):
    server.behave = breaks_off
    _files.find(source(server.url), None)
    assert (cache / NAME).read_bytes() == PAYLOAD
    assert server.requests == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_what_another_run_left_is_carried_on(server, cache):
    cache.mkdir()
    (cache / f"{NAME}.part").write_bytes(PAYLOAD[:1000])
    _files.find(source(server.url), None)
    assert (cache / NAME).read_bytes() == PAYLOAD
    assert server.requests == ["bytes=1000-"] and names(cache) == [NAME]


@pytest.mark.parametrize("left", [b"\0" * 1000, b"\0" * len(PAYLOAD), b"\0" * 2_000_000])
def test_what_another_run_left_of_something_else_is_thrown_away(server, cache, left):
    cache.mkdir()
    (cache / f"{NAME}.part").write_bytes(left)
    _files.find(source(server.url), None)
    assert (cache / NAME).read_bytes() == PAYLOAD and names(cache) == [NAME]


def test_a_server_without_ranges_starts_again(server, cache):
    server.behave = without_ranges
    _files.find(source(server.url), None)
    assert (cache / NAME).read_bytes() == PAYLOAD
    assert server.requests == [None, "bytes=400000-", "bytes=400000-"]


def test_a_server_that_refuses_the_range_is_asked_for_all(server, cache):
    def refuse(handler, start):
        handler.send(b"", 416) if start else handler.send(PAYLOAD)

    server.behave = refuse
    cache.mkdir()
    (cache / f"{NAME}.part").write_bytes(b"from elsewhere")
    _files.find(source(server.url), None)
    assert (cache / NAME).read_bytes() == PAYLOAD


def test_a_server_that_keeps_breaking_off_is_given_up(server, cache):
    server.behave = lambda handler, start: handler.send(
        PAYLOAD[start:5000], 206 if start else 200, start, length=len(PAYLOAD)
    )
    with pytest.raises(OSError, match=r"broke off|more expected.*, after 5,000 of 1,004,000 bytes"):
        _files.find(source(server.url), None)
    assert len(server.requests) == 2 + _download.RETRIES
    assert names(cache) == [f"{NAME}.part"]  # to resume later


@pytest.mark.parametrize(
    "body, message",
    [
        (bytes(len(PAYLOAD)), "must have the SHA-256"),
        (PAYLOAD + b"more", r"must have 1,004,000 bytes. Received: more"),
        (b"<html>log in here</html>", "after 24 of 1,004,000 bytes"),
        (b"", "after 0 of"),
    ],
    ids=["wrong", "longer", "page", "empty"],
)
def test_wrong_bytes_never_get_into_the_cache(server, cache, body, message):
    server.behave = lambda handler, start: handler.send(body)
    with pytest.raises(OSError, match=message) as caught:
        _files.find(source(server.url), None)
    assert not (cache / NAME).exists()
    assert f"put {NAME} from {server.url} into {cache}, or pass path=" in str(caught.value)
    server.behave = whole  # and the next attempt succeeds, whatever was left
    assert (_files.find(source(server.url), None) / NAME).read_bytes() == PAYLOAD


def test_no_more_is_read_than_the_file_should_have(server, cache):
    endless = threading.Event()

    def pour(handler, start):
        handler.send(b"", length=10**12)
        try:
            while not endless.wait(0):
                handler.wfile.write(bytes(1 << 16))
        except OSError:  # the client hung up
            pass

    server.behave = pour
    try:
        with pytest.raises(OSError, match="Received: more"):
            _files.find(source(server.url), None)
    finally:
        endless.set()


def test_a_server_that_says_nothing_times_out(server, cache, monkeypatch):
    release = threading.Event()
    server.behave = lambda handler, start: release.wait(10)
    monkeypatch.setattr(_download, "TIMEOUT", 0.1)
    monkeypatch.setattr(_download, "RETRIES", 1)
    try:
        with pytest.raises(OSError, match="timed out, after 0 of"):
            _files.find(source(server.url), None)
    finally:
        release.set()
    assert len(server.requests) == 2


def test_a_slow_server_is_waited_for_as_long_as_something_comes(server, cache, monkeypatch):
    pause = threading.Event()

    def drip(handler, start):
        handler.send(b"", length=len(PAYLOAD))
        for i in range(0, len(PAYLOAD), 100_000):
            pause.wait(0.12)
            handler.wfile.write(PAYLOAD[i : i + 100_000])

    server.behave = drip
    monkeypatch.setattr(_download, "TIMEOUT", 1.0)  # all of it takes 1.3 s
    _files.find(source(server.url), None)
    assert server.requests == [None] and (cache / NAME).read_bytes() == PAYLOAD


def test_a_stall_in_the_middle_is_carried_on(server, cache, monkeypatch):
    release = threading.Event()

    def stall(handler, start):
        if start:
            return whole(handler, start)
        handler.send(PAYLOAD[:100_000], length=len(PAYLOAD))
        handler.wfile.flush()
        release.wait(10)

    server.behave = stall
    monkeypatch.setattr(_download, "TIMEOUT", 0.1)
    try:
        _files.find(source(server.url), None)
    finally:
        release.set()
    assert (cache / NAME).read_bytes() == PAYLOAD and server.requests[1] == "bytes=100000-"


@pytest.mark.parametrize("status, requests", [(404, 1), (403, 1), (503, 5), (429, 5)])
def test_only_what_may_pass_is_tried_again(server, cache, status, requests):
    server.behave = lambda handler, start: handler.send(b"no", status)
    with pytest.raises(OSError, match=f"the server answers {status}"):
        _files.find(source(server.url), None)
    assert len(server.requests) == requests


def test_the_next_address_is_asked_if_one_fails(server, cache, monkeypatch):
    monkeypatch.setattr(_download, "RETRIES", 0)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, but not listening: connections are refused
        dead = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        _files.find(source(dead, server.url), None)
        assert (cache / NAME).read_bytes() == PAYLOAD
        (cache / NAME).unlink()
        with pytest.raises(OSError, match="refused") as caught:
            _files.find(source(dead), None)
    assert f"put {NAME} from {dead} into {cache}, or pass path=" in str(caught.value)


def test_a_full_disk_is_not_blamed_on_the_network(server, cache, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_download, "_read_on", full)
    with pytest.raises(OSError, match="No space left on device"):
        _files.find(source(server.url, server.url), None)


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NPDL_DATA", str(tmp_path / "file"))
    with pytest.raises(OSError, match="thing could not be downloaded") as caught:
        _files.find(source("http://127.0.0.1:9/"), None)
    assert str(tmp_path / "file" / "thing") in str(caught.value)


def test_two_processes_at_once_download_once(server, cache):
    pytest.importorskip("fcntl")
    code = (
        "import sys; from npdl.datasets import _files\n"
        f"s = _files.Source('thing', [sys.argv[1]], {{{NAME!r}: ({len(PAYLOAD)}, {SHA256!r})}})\n"
        "_files.find(s, None)"
    )
    command = [sys.executable, "-c", code, server.url]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert server.requests == [None] and (cache / NAME).read_bytes() == PAYLOAD


def test_a_path_that_is_given_is_left_alone(tmp_path):
    assert _files.find(source("http://127.0.0.1:9/"), tmp_path) == tmp_path
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="`path` must exist"):
        _files.find(source("http://127.0.0.1:9/"), tmp_path / "nowhere")


@pytest.mark.parametrize(
    "platform, variables, wanted",
    [
        ("linux", {"HOME": "/home/me"}, "/home/me/.cache/npdl"),
        ("linux", {"HOME": "/home/me", "XDG_CACHE_HOME": "/c"}, "/c/npdl"),
        ("darwin", {"HOME": "/Users/me"}, "/Users/me/Library/Caches/npdl"),
        ("linux", {"HOME": "/home/me", "NPDL_DATA": "/data"}, "/data"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX paths")
def test_the_cache_is_where_the_system_keeps_caches(monkeypatch, platform, variables, wanted):
    for name in ("NPDL_DATA", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert str(_files.cache_folder()) == wanted
