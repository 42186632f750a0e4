"""Build sdist and wheel of the last commit twice, and compare the two byte by byte.

python tools/reproducible.py            (make reproducible)
NPDL_ISAS=base python tools/reproducible.py

The builds lie in folders of different names, run with different seeds of Python's hashes, and share
only the commit, the tools and SOURCE_DATE_EPOCH, the time of the commit.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def run(*command: object, **options: Any) -> str:
    """Run a command and return its output; print the output if it fails."""
    parts = [str(part) for part in command]
    done = subprocess.run(
        parts, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed: {' '.join(parts)}")
    return done.stdout.strip()


def build(folder: Path, seed: int) -> dict[str, Path]:
    """Clone the last commit into a folder and build it there; return the files by their names."""
    source, out = folder / "npdl", folder / "dist"
    run("git", "clone", "--quiet", "--no-hardlinks", ROOT, source)
    time = run("git", "log", "-1", "--format=%ct", cwd=source)
    env = {**os.environ, "SOURCE_DATE_EPOCH": time, "PYTHONHASHSEED": str(seed)}
    env["NPDL_REQUIRE_EXT"] = "1"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, cwd=source, env=env)
    return {path.name: path for path in sorted(out.iterdir())}


def members(path: Path) -> dict[str, object]:
    """The metadata of each member of an archive, in order."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {
                info.filename: (info.CRC, info.date_time, oct(info.external_attr))
                for info in wheel.infolist()
            }
    found: dict[str, object] = {}
    with tarfile.open(path) as sdist:
        for member in sdist:
            file = sdist.extractfile(member)
            digest = hashlib.sha256(file.read()).hexdigest()[:8] if file else ""
            owner = member.uid, member.gid, member.uname, member.gname
            found[member.name] = digest, member.mtime, oct(member.mode), owner
    return found


def differences(first: Path, second: Path) -> list[str]:
    """The differences between two archives, a line for each member; empty if they are equal."""
    if first.read_bytes() == second.read_bytes():
        return []
    old, new = members(first), members(second)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if not names and list(old) != list(new):
        return ["the order of the members"]
    return [f"{name}: {old.get(name)}, {new.get(name)}" for name in names] or ["the packing"]


def main() -> None:
    """Build, compare, and print the differences."""
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory(prefix="another-") as two,
    ):
        first, second = build(Path(one), 1), build(Path(two), 2)
        failed = first.keys() != second.keys()
        if failed:
            print(f"other files: {[*first]}, {[*second]}")
        for name in sorted(first.keys() & second.keys()):
            found = differences(first[name], second[name])
            digest = hashlib.sha256(first[name].read_bytes()).hexdigest()
            said = f"{len(found)} differences" if found else f"the same twice, sha256 {digest}"
            print(f"{name}: {said}")
            print(*(f"  {line}\n" for line in found[:20]), sep="", end="")
            failed |= bool(found)
    sys.exit(failed)


if __name__ == "__main__":
    main()
