"""Test a wheel for aarch64 on another architecture: Debian's CPython under qemu.

python tools/emulate.py dist/npdl-*_aarch64.whl               verify, tests/kernels, tests/layers
python tools/emulate.py dist/npdl-*_aarch64.whl tests/kernels -x        arguments go to pytest

Everything it needs is in build/aarch64; nothing is installed. Debian's packages for aarch64 are
unpacked there, by a separate apt that does not touch this machine's, and NumPy and pytest from PyPI
beside them. Tests that start another process can't run this way: this kernel refuses the program.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "aarch64"
GLIBCS = range(17, 37)  # the glibc 2.x up to Debian's, whose wheels run there
#: By default. The tests of wrong arguments run in a process of their own, as they may crash it.
TESTS = ["tests/kernels", "tests/layers", "--ignore=tests/kernels/test_bad_arguments.py"]


def run(*command: object, **options: object) -> str:
    """Run a command and return its output; print the output if it fails."""
    parts = [str(part) for part in command]
    done = subprocess.run(  # type: ignore[call-overload]
        parts, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed: {' '.join(parts)}")
    return done.stdout


def unpack_debian(root: Path) -> str:
    """Unpack CPython and its dependencies into `root`; return its version, "3.11"."""
    state, cache = WORK / "apt", WORK / "cache"
    for folder in (state / "lists" / "partial", cache / "archives" / "partial", root):
        folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Dir::State": state,
        "Dir::State::status": "/dev/null",  # nothing is there yet
        "Dir::Cache": cache,
    }
    apt = [f"-o{name}={value}" for name, value in settings.items()]
    run("apt-get", *apt, "update")
    found = re.search(
        r"^Depends:.*?\bpython(3\.\d+)", run("apt-cache", *apt, "show", "python3"), re.M
    )
    if not found:
        sys.exit("Debian's python3 names no version")
    run("apt-get", *apt, "install", "-y", "--download-only", f"python{found[1]}", "libstdc++6")
    for package in sorted((cache / "archives").glob("*.deb")):
        run("dpkg", "-x", package, root)
    return found[1]


def prepare(wheel: Path) -> tuple[list[object], dict[str, str]]:
    """Make a machine with the wheel; return the command of its Python, and the variables."""
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if qemu is None:
        sys.exit("qemu-aarch64-static is missing (Debian: apt-get install qemu-user-static)")
    shutil.rmtree(WORK, ignore_errors=True)
    root, site = WORK / "root", WORK / "site"
    version = unpack_debian(root)
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in GLIBCS]
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    only = ["--only-binary=:all:", "--implementation=cp", f"--python-version={version}"]
    run(*pip, "--target", site, *only, *platforms, wheel, "numpy", "pytest>=8", "hypothesis>=6")
    env = {
        **os.environ,
        "NPDL_REQUIRE_EXT": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHOME": str(root / "usr"),
        "PYTHONPATH": str(site),
    }
    return [qemu, "-L", root, root / "usr" / "bin" / f"python{version}"], env


def test(wheel: Path, arguments: list[str]) -> list[tuple[str, str]]:
    """Verify the kernels and run tests; return each command with the last line of its output."""
    python, env = prepare(wheel)
    shutil.copytree(ROOT / "tests", WORK / "elsewhere" / "tests")
    shutil.copy(ROOT / "pyproject.toml", WORK / "elsewhere")
    told = []
    for command in (["npdl", "info"], ["npdl", "verify"], ["pytest", *(arguments or TESTS)]):
        said = run(*python, "-m", *command, cwd=WORK / "elsewhere", env=env)
        told.append((" ".join(command), said.strip().splitlines()[-1]))
    return told


def main() -> None:
    """Test the wheel that was named."""
    wheel, *arguments = sys.argv[1:] or [""]
    if not wheel.endswith("aarch64.whl"):
        sys.exit("usage: emulate.py WHEEL [arguments for pytest]")
    for command, said in test(Path(wheel).resolve(), arguments):
        print(f"{command}: {said}")


if __name__ == "__main__":
    main()
