"""Run the suite on kernels of another build: with a sanitizer, or by clang.

python tools/variant.py asan                     AddressSanitizer
python tools/variant.py ubsan tests/kernels -x   UndefinedBehaviorSanitizer; arguments go to pytest
python tools/variant.py clang

The build is in build/<variant>, so that the kernels beside their sources are unchanged. Each run
updates it; a build with other flags is replaced. NPDL_ISAS chooses the instruction sets.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
#: What the copy leaves out.
IGNORED = shutil.ignore_patterns(
    *(".*", "build", "dist", "demo", "results", "_build", "*.so", "*.egg-info", "__pycache__")
)


class Variant(NamedTuple):
    """How to compile a variant, and how to run it."""

    flags: str = ""
    compiler: str = "gcc"
    preload: str = ""  # a library that must be loaded before Python
    env: Mapping[str, str] = MappingProxyType({})


VARIANTS = {
    "asan": Variant(
        "-fsanitize=address -fno-omit-frame-pointer",
        preload="libasan.so",
        # Python frees little at its end; malloc lets the sanitizer see each of its objects.
        env={"ASAN_OPTIONS": "detect_leaks=0:log_path={folder}/findings", "PYTHONMALLOC": "malloc"},
    ),
    "ubsan": Variant(
        "-fsanitize=undefined",
        preload="libubsan.so",
        env={"UBSAN_OPTIONS": "log_path={folder}/findings"},
    ),
    "clang": Variant(compiler="clang"),
}


def prepare(name: str, variant: Variant) -> tuple[Path, dict[str, str]]:
    """Copy the sources, compile them, and return the folder and the variables to run under."""
    if shutil.which(variant.compiler) is None:
        sys.exit(f"{variant.compiler} is missing (Debian: apt-get install {variant.compiler})")
    folder = ROOT / "build" / name
    flags = {
        "CC": variant.compiler,
        "LDSHARED": f"{variant.compiler} -shared",
        "CFLAGS": variant.flags,
        "LDFLAGS": variant.flags,
    }
    stamp, how = folder / "made-with", f"{flags}, Python {sys.version}\n"
    if folder.exists() and not (stamp.exists() and stamp.read_text() == how):
        shutil.rmtree(folder)
    shutil.copytree(ROOT, folder, ignore=IGNORED, dirs_exist_ok=True)
    stamp.write_text(how)
    env = {**os.environ, "NPDL_REQUIRE_EXT": "1"}
    build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(
        build, cwd=folder, env={**env, **flags}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        sys.exit(done.stdout.decode(errors="replace"))
    env |= {key: value.replace("{folder}", str(folder)) for key, value in variant.env.items()}
    env["PYTHONPATH"] = str(folder)
    if variant.preload:
        library = subprocess.run(
            [variant.compiler, f"-print-file-name={variant.preload}"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        env["LD_PRELOAD"] = str(Path(library).resolve())
    return folder, env


def main() -> None:
    """Build a variant and run pytest on it."""
    name, *arguments = sys.argv[1:] or [""]
    if name not in VARIANTS:
        sys.exit(f"usage: variant.py {{{','.join(VARIANTS)}}} [arguments for pytest]")
    folder, env = prepare(name, VARIANTS[name])
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    for old in folder.glob("findings.*"):
        old.unlink()
    status = subprocess.run(command, cwd=folder, env=env).returncode
    findings = "".join(path.read_text(errors="replace") for path in folder.glob("findings.*"))
    errors = sorted(set(re.findall(r"^.*(?:runtime error|ERROR): .*$", findings, re.MULTILINE)))
    print(f"{name}: {len(errors)} findings", *errors, sep="\n")
    sys.exit(status or bool(errors))


if __name__ == "__main__":
    main()
