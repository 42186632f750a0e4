"""Build npdl, and NumPy, for the browser, with Debian's clang, and run them in Pyodide under Node.

python tools/browser.py wheel            the wheel of npdl for WebAssembly, into build/browser
python tools/browser.py numpy            NumPy for Pyodide's Python, into build/browser
python tools/browser.py site FOLDER      copy what the page "Train in your browser" needs there
python tools/browser.py run SCRIPT ...   run a Python script in Pyodide, with both

Each gets first what it needs: clang-22 and lld-22 and the headers of Emscripten's C library from
Debian, Pyodide from npm, NumPy from PyPI. apt-get needs root where they are not installed. No
compiler of Emscripten is run: clang and wasm-ld make the side modules that Pyodide loads.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "browser"
LLVM = "22"
PYODIDE, PYTHON, NUMPY = "0.29.4", "3.13", "2.4.6"
PLATFORM = "pyemscripten_2025_0_wasm32"

_TARGET = ["--target=wasm32-unknown-emscripten", "-fPIC", "-msimd128", "-nostdinc", "-w"]
#: What is smaller in 32 bits than in the pyconfig.h of this machine.
_SIZES = ["LONG", "SIZE_T", "VOID_P", "UINTPTR_T", "PTHREAD_T"]


def run(*command: str | Path, **options) -> None:
    """Run a command, and end the program if it fails."""
    print("+", *command, file=sys.stderr, flush=True)
    done = subprocess.run([str(part) for part in command], check=False, **options)
    if done.returncode:
        sys.exit(f"error: {command[0]} ended with status {done.returncode}")


# ------------------------------------------------------------------------------------- tools


def get_tools() -> None:
    """Get clang, the headers of the C and C++ libraries, and Pyodide."""
    OUT.mkdir(parents=True, exist_ok=True)
    if not (shutil.which(f"clang-{LLVM}") and shutil.which(f"wasm-ld-{LLVM}")):
        run("apt-get", "install", "-y", "-q", f"clang-{LLVM}", f"lld-{LLVM}")
    if not (OUT / "include").exists():
        unpacked = OUT / "debian"
        for package in ("emscripten", f"libc++-{LLVM}-dev-wasm32"):
            run("apt-get", "download", "-q", package, cwd=OUT)
            (file,) = OUT.glob(f"{package}_*.deb")
            run("dpkg-deb", "-x", file.name, unpacked, cwd=OUT)
            file.unlink()
        make_headers(unpacked / "usr", OUT / "include.part")
        (OUT / "include.part").rename(OUT / "include")
        shutil.rmtree(unpacked)
    if not (OUT / "pyodide").exists():
        run("npm", "pack", "--silent", f"pyodide@{PYODIDE}", cwd=OUT)
        run("tar", "xzf", f"pyodide-{PYODIDE}.tgz", cwd=OUT)
        (OUT / f"pyodide-{PYODIDE}.tgz").unlink()
        (OUT / "package").rename(OUT / "pyodide")


def make_headers(usr: Path, out: Path) -> None:
    """Copy the headers of the C and C++ libraries, made to fit Pyodide's."""
    shutil.copytree(usr / "share" / "emscripten" / "cache" / "sysroot" / "include", out / "c")
    shutil.rmtree(out / "c" / "c++")
    types = out / "c" / "bits" / "alltypes.h"
    replace(types, r"typedef long (time_t|suseconds_t);", r"typedef long long \1;", 2)
    libcxx = usr / "lib" / f"llvm-{LLVM}" / "include" / "wasm32-wasi" / "c++" / "v1"
    shutil.copytree(libcxx, out / "c++")
    replace(out / "c++" / "__config_site", r"(_LIBCPP_HAS_THREADS) 0", r"\1 1")
    replace(out / "c++" / "__config_site", r"(_LIBCPP_HAS_THREAD_API_PTHREAD) 0", r"\1 1")
    # Pyodide's C++ library is older than these headers, and lacks what the last versions added.
    newer = out / "c++" / "__configuration" / "availability.h"
    replace(newer, r"#  define (_LIBCPP_INTRODUCED_IN_LLVM_2[012]) 1", r"#  define \1 0", 3)


def python_headers(python: str) -> Path:
    """Return the folder of the headers of a Python of this machine, made to fit 32 bits."""
    code = "import sysconfig; print(sysconfig.get_path('include'))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    headers = Path(found.stdout.strip())
    out = OUT / headers.name
    if not out.exists():
        part = out.with_name(f"{out.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(headers, part)
        for name in _SIZES:
            replace(part / "pyconfig.h", rf"(#define SIZEOF_{name}) \d+", r"\1 4")
        part.rename(out)
    return out


def replace(path: Path, pattern: str, by: str, times: int = 1) -> None:
    """Replace a pattern in a file, which must contain it exactly this many times."""
    text, count = re.subn(pattern, by, path.read_text("utf-8"))
    if count != times:
        raise ValueError(f"{path} must have {pattern!r} {times} times. Received: {count}")
    path.write_text(text, "utf-8")


# ---------------------------------------------------------------------------------- compiler


def compiler(language: str, arguments: list[str]) -> int:
    """Run in place of the compiler and linker that setup.py, or Meson, calls.

    The headers of Python are those of the folder in NPDL_WASM_PYTHON.
    """
    clang = f"clang{'++' if language == 'c++' else ''}-{LLVM}"
    if any(option in arguments for option in ("-c", "-E", "-S", "-fsyntax-only")):
        return call([clang, *_TARGET, *includes(language), *filtered(arguments)])
    if "-Wl,--version" in arguments or "--version" in arguments:
        return call([clang if "--version" in arguments else f"wasm-ld-{LLVM}", "--version"])
    sources = [part for part in arguments if re.search(r"\.(c|cc|cpp|cxx)$", part)]
    out = arguments[arguments.index("-o") + 1] if "-o" in arguments else "a.out"
    objects = [part for part in arguments if re.search(r"\.[oa]$", part) and part != out]
    for source in sources:
        made = f"{out}.{len(objects)}.o"
        without = {*sources, *objects, "-o", out}
        kept = [part for part in filtered(arguments) if part not in without]
        status = call([clang, *_TARGET, *includes(language), *kept, "-c", source, "-o", made])
        if status:
            return status
        objects.append(made)
    return link(objects, out, shared="-shared" in arguments)


def includes(language: str) -> list[str]:
    """The options that find the headers."""
    own = subprocess.run([f"clang-{LLVM}", "-print-resource-dir"], capture_output=True, text=True)
    folders = [Path(own.stdout.strip()) / "include", OUT / "include" / "c" / "compat"]
    folders.append(OUT / "include" / "c")
    if language == "c++":
        folders.insert(0, OUT / "include" / "c++")
    found = [f"-I{os.environ['NPDL_WASM_PYTHON']}"] if "NPDL_WASM_PYTHON" in os.environ else []
    if language == "c++":
        found.append("-fignore-exceptions")
    return [*found, *(f"-isystem{folder}" for folder in folders)]


def filtered(arguments: list[str]) -> list[str]:
    """The options, without those for this machine and for the linker."""
    ours = (sysconfig.get_path("include"), "/python3.")
    dropped = ("-pthread", "-shared", "-fno-strict-overflow", "-Wl,", "-L", "-l", "-march=")
    return [
        option
        for option in arguments
        if not option.startswith(dropped)
        and not (option.startswith("-I") and any(path in option for path in ours))
    ]


def link(objects: list[str], out: str, shared: bool) -> int:
    """Link a module, or a program that only tests whether linking works."""
    command = [f"wasm-ld-{LLVM}", "--strip-debug", *objects, "-o", out]
    if shared:
        name = Path(out).name.partition(".")[0]
        command += ["-shared", "--experimental-pic", f"--export-if-defined=PyInit_{name}"]
        command += ["--unresolved-symbols=import-dynamic"]
    else:
        # Without the second option, main and everything that it calls would be dropped.
        command += ["--no-entry", "--no-gc-sections"]
        command += [f"--allow-undefined-file={functions_of_pyodide()}"]
    return call(command)


def call(command: list[str]) -> int:
    """Run a command and return its status."""
    return subprocess.run(command, check=False).returncode


@functools.cache
def functions_of_pyodide() -> Path:
    """The file that lists the symbols exported by Pyodide's main module."""
    path = OUT / "functions.txt"
    if not path.exists():
        names = in_node("exports(module).map((e) => e.name)", OUT / "pyodide" / "pyodide.asm.wasm")
        path.write_text("\n".join(names) + "\n", "utf-8")
    return path


def in_node(code: str, path: Path) -> list[str]:
    """The names that JavaScript finds in a WebAssembly module."""
    script = (
        "const { Module } = WebAssembly; const { exports, imports } = Module; const module = new "
        f"Module(require('fs').readFileSync(process.argv[1])); console.log({code}.join('\\n'))"
    )
    done = subprocess.run(["node", "-e", script, path], capture_output=True, text=True, check=True)
    return done.stdout.split()


def check_functions(archive: Path) -> None:
    """End the program if a module in an archive calls functions that Pyodide does not have.

    It would load all the same, and Python would break down at the call.
    """
    known = set(functions_of_pyodide().read_text("utf-8").split())
    code = "imports(module).filter((i) => i.module == 'env' && i.kind == 'function')"
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archive) as content:
        for name in content.namelist():
            if name.endswith(".so"):
                path = Path(content.extract(name, folder))
                wanted = in_node(f"{code}.map((i) => i.name)", path)
                own = in_node("exports(module).map((e) => e.name)", path)
                if missing := sorted(set(wanted) - set(own) - known):
                    sys.exit(f"error: {name} calls {', '.join(missing)}, which Pyodide lacks")


# ------------------------------------------------------------------------------------ builds


def environment(python: str) -> dict[str, str]:
    """The environment variables that make this program the compiler."""
    return {**os.environ, "NPDL_WASM_PYTHON": str(python_headers(python))}


def this(language: str) -> list[str]:
    """The command that runs in place of a compiler."""
    return [sys.executable, str(Path(__file__).resolve()), "compiler", language]


def build_wheel() -> Path:
    """Build the wheel of npdl, and return its path."""
    get_tools()
    variables = {
        **environment(sys.executable),
        **{"CC": " ".join(this("c")), "LDSHARED": " ".join([*this("c"), "-shared"])},
        **{"CFLAGS": "-DNDEBUG", "LDFLAGS": "", "NPDL_ARCH": "wasm32", "NPDL_REQUIRE_EXT": "1"},
        "_PYTHON_HOST_PLATFORM": PLATFORM,
    }
    for old in OUT.glob("npdl-*.whl"):
        old.unlink()
    command = [sys.executable, "setup.py", "--quiet", "build", "--build-base", OUT / "build"]
    command += ["bdist_wheel", "--dist-dir", OUT, "--plat-name", PLATFORM]
    run(*command, cwd=ROOT, env=variables)
    (made,) = OUT.glob("npdl-*.whl")
    check_functions(made)
    print(f"{made}: {made.stat().st_size:,} bytes")
    return made


CROSS = """
[binaries]
c = {c}
cpp = {cpp}
ar = '/usr/bin/llvm-ar-{llvm}'
python = '{python}'
cython = '{cython}'

[host_machine]
system = 'emscripten'
cpu_family = 'wasm32'
cpu = 'wasm32'
endian = 'little'

[properties]
longdouble_format = 'IEEE_QUAD_LE'
skip_sanity_check = true
needs_exe_wrapper = true
"""


def fetch_source(package: str, version: str, folder: Path) -> Path:
    """Fetch the source archive of a release from PyPI; `pip download` would also compile it."""
    form = {"Accept": "application/vnd.pypi.simple.v1+json"}
    page = urllib.request.Request(f"https://pypi.org/simple/{package}/", headers=form)
    with urllib.request.urlopen(page) as answer:
        files = json.load(answer)["files"]
    (found,) = (f for f in files if f["filename"] == f"{package}-{version}.tar.gz")
    archive = folder / found["filename"]
    if not archive.exists():
        with urllib.request.urlopen(found["url"]) as answer:
            content = answer.read()
        if hashlib.sha256(content).hexdigest() != found["hashes"]["sha256"]:
            sys.exit(f"error: {found['url']} has another checksum than PyPI names")
        archive.write_bytes(content)
    return archive


def build_numpy(python: str) -> Path:
    """Build NumPy with a Python of Pyodide's version, and return the path of a zip file."""
    made = OUT / f"numpy-{NUMPY}-{PYTHON}.zip"
    if made.exists():
        return made
    get_tools()
    folder = OUT / "numpy"
    folder.mkdir(exist_ok=True)
    if not (folder / "venv").exists():
        run(python, "-m", "venv", folder / "venv")
        run(folder / "venv/bin/pip", "install", "-q", "Cython", "ninja")
    source = folder / f"numpy-{NUMPY}"
    if not source.exists():
        with tarfile.open(fetch_source("numpy", NUMPY, folder)) as archive:
            archive.extractall(folder, filter="data")
    bin = folder / "venv" / "bin"
    cross = folder / "cross.ini"
    names = {"python": bin / "python", "cython": bin / "cython", "llvm": LLVM}
    cross.write_text(CROSS.format(c=this("c"), cpp=this("c++"), **names), "utf-8")
    variables = {**environment(str(bin / "python")), "PATH": f"{bin}:{os.environ['PATH']}"}
    meson = [bin / "python", source / "vendored-meson" / "meson" / "meson.py"]
    built = folder / "build"
    if not (built / "build.ninja").exists():
        shutil.rmtree(built, ignore_errors=True)
        options = ["-Dallow-noblas=true", "-Ddisable-optimization=true", "-Dblas=none"]
        options += ["-Dlapack=none", "-Dbuildtype=release", "-Db_ndebug=true", "-Dcpp_eh=default"]
        options += ["--prefix", folder / "installed", f"--cross-file={cross}"]
        run(*meson, "setup", built, source, *options, env=variables)
    run(bin / "ninja", "-C", built, "-j", os.environ.get("NPDL_BUILD_JOBS", "2"), env=variables)
    run(*meson, "install", "-C", built, "--no-rebuild", "--quiet", env=variables)
    pack(folder / "installed", made.with_suffix(".part"))
    check_functions(made.with_suffix(".part"))
    made.with_suffix(".part").rename(made)
    print(f"{made}: {made.stat().st_size:,} bytes")
    return made


def pack(installed: Path, made: Path) -> None:
    """Pack NumPy without its tests, its modules named as Pyodide expects."""
    (site,) = installed.glob(f"lib/python{PYTHON}/site-packages")
    suffix = f".cpython-{PYTHON.replace('.', '')}-wasm32-emscripten.so"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(site.rglob("*")):
            name = path.relative_to(site)
            if path.is_dir() or {"tests", "include", "__pycache__"} & set(name.parts):
                continue
            if path.suffix in (".a", ".h", ".pyi", ".pyc"):
                continue
            if path.suffix == ".so":
                name = name.with_name(name.name.partition(".")[0] + suffix)
            archive.write(path, str(name))


def write_packages(folder: Path) -> list[Path]:
    """Write the list of the files that Pyodide unpacks, and return these."""
    files = [*OUT.glob("npdl-*.whl"), OUT / f"numpy-{NUMPY}-{PYTHON}.zip"]
    if len(files) != 2 or not all(file.exists() for file in files):
        sys.exit("error: build first: python tools/browser.py wheel; python tools/browser.py numpy")
    formats = {".whl": "wheel", ".zip": "zip"}
    listed = [[file.name, formats[file.suffix]] for file in files]
    (folder / "packages.json").write_text(json.dumps(listed), "utf-8")
    return files


def make_site(folder: Path) -> None:
    """Copy Pyodide, NumPy and npdl to where the page looks for them, and the page itself."""
    page = ROOT / "docs" / "_static" / "browser"
    if folder.resolve() != page:
        shutil.copytree(page, folder, dirs_exist_ok=True)
    (folder / "pyodide").mkdir(exist_ok=True)
    for name in ("pyodide.mjs", "pyodide.asm.js", "pyodide.asm.wasm", "python_stdlib.zip"):
        shutil.copy2(OUT / "pyodide" / name, folder / "pyodide" / name)
    shutil.copy2(OUT / "pyodide" / "pyodide-lock.json", folder / "pyodide")
    for file in write_packages(folder):
        shutil.copy2(file, folder / file.name)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB")


def main() -> int:
    """Run a command; return its exit code."""
    if sys.argv[1:2] == ["compiler"]:
        return compiler(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("wheel", help="build the wheel of npdl")
    command = commands.add_parser("numpy", help="build NumPy")
    command.add_argument("--python", default=f"python{PYTHON}", help=f"a Python {PYTHON}")
    command = commands.add_parser("site", help="copy what the page needs")
    command.add_argument("folder", type=Path)
    command = commands.add_parser("run", help="run a script in Pyodide")
    command.add_argument("script", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.command == "wheel":
        build_wheel()
    elif options.command == "numpy":
        build_numpy(options.python)
    elif options.command == "site":
        make_site(options.folder)
    else:
        write_packages(OUT)
        run("node", ROOT / "tools" / "pyodide.mjs", OUT, *options.script)
    return 0


if __name__ == "__main__":
    sys.exit(main())
