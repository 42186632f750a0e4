"""Build the kernels of npdl/_ext: each .pyx once for every instruction set.

Environment
-----------
NPDL_ISAS : the instruction sets to build, e.g. "v3" while developing. Default: all of the target.
NPDL_CYTHON_DEBUG : "1" turns Cython's bounds and None checks on.
NPDL_REQUIRE_EXT : "1" makes a kernel that does not compile an error. Otherwise the package installs
    without it and says so at import.
NPDL_LIMITED_API : "0" builds for this one CPython instead of the stable ABI.
NPDL_BUILD_JOBS : compilers to run at once. Default: the cores of this machine.
SOURCE_DATE_EPOCH : the time of all files in sdist and wheel, seconds since 1970. With it, the same
    sources and tools give the same bytes.
"""

import gzip
import os
import platform
import subprocess
import sys
import sysconfig
import tarfile
from contextlib import nullcontext
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

HERE = Path("npdl/_ext")
# One build of these for each instruction set, and one in all of those.
KERNELS = [
    "activation",
    "attention",
    "conv",
    "ctc",
    "dense",
    "dropout",
    "embedding",
    "layernorm",
    "log_softmax",
    "norm",
    "optimizer",
    "pool",
    "resize",
    "rnn",
    "softmax",
]
SHARED = ["arrays", "cpu", "steps", "tape", "threads"]


def switch(name, default):
    return os.environ.get(name, default) not in ("", "0")


MSVC = sys.platform == "win32"
MACHINE = os.environ.get("NPDL_ARCH", platform.machine()).lower()
X86 = MACHINE in ("x86_64", "amd64")
WASM = MACHINE.startswith("wasm") or "wasm" in sysconfig.get_platform()
ISA_FLAGS = {"base": ["-msimd128"] if WASM else []}
if X86 and not WASM:
    if not MSVC:  # few CPUs need it: small rather than fast
        ISA_FLAGS["base"] = ["-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic"]
    ISA_FLAGS["v3"] = ["/arch:AVX2"] if MSVC else ["-march=x86-64-v3"]
    ISA_FLAGS["v4"] = (
        ["/arch:AVX512"] if MSVC else ["-march=x86-64-v4", "-mprefer-vector-width=512"]
    )
ISAS = os.environ.get("NPDL_ISAS", " ".join(ISA_FLAGS)).replace(",", " ").split()

# -g0 and -s keep a module near 100 kB. Without -ffp-contract=off each compiler would fuse products
# with sums where it likes; the kernels say themselves where (simd.h), so that all give the same
# bits. The next two flags change no result: errno is never read, and no trap is ever enabled.
# Tables for unwinding the stack, which C never needs, would be 3 % of the wheel, and constants that
# are there twice 1 %.
COMPILE = ["-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
COMPILE += ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fmerge-all-constants"]
if MSVC:
    COMPILE = ["/O2", "/fp:precise"]
LINK = ["-Wl,-s"] if sys.platform == "linux" else []

# The stable ABI of CPython 3.11: one wheel for all later ones. A free-threaded build has none yet.
LIMITED = switch("NPDL_LIMITED_API", "1") and not sysconfig.get_config_var("Py_GIL_DISABLED")
MACROS = [("Py_LIMITED_API", "0x030B0000")] if LIMITED else []

DEBUG = switch("NPDL_CYTHON_DEBUG", "0")
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "nonecheck": DEBUG,
    "initializedcheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
    "freethreading_compatible": True,
    # Functions as those of CPython's own C modules. What else Cython gives a function would be 3 %
    # of the wheel.
    "binding": False,
    "embedsignature": True,
    "embedsignature.format": "clinic",
}


def is_gcc(compiler):
    """Whether a compiler is gcc; clang may have that name too."""
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return "Free Software Foundation" in done.stdout


def extension(name, source, flags=()):
    return Extension(
        f"npdl._ext.{name}",
        [str(HERE / source)],
        include_dirs=[str(HERE)],
        extra_compile_args=[*COMPILE, *flags],
        extra_link_args=LINK,
        define_macros=MACROS,
        py_limited_api=LIMITED,
        optional=not switch("NPDL_REQUIRE_EXT", "0"),
    )


# Cython writes the utility code that all modules share into a separate module. There and in the
# modules without loops over data, small code is as fast.
SMALL = [] if MSVC else ["-Os"]
UTILITY = extension("_cyutility", "_cyutility.c", SMALL)
BUILDS = {"shared": [UTILITY, *(extension(m, f"{m}.pyx", SMALL) for m in SHARED)]}
for isa in ISAS:
    BUILDS[isa] = [extension(f"{m}_{isa}", f"{m}.pyx", ISA_FLAGS[isa]) for m in KERNELS]


# Copies of loops for certain conditions make no kernel faster, and are 2 % of the wheel; stubs for
# calls of other libraries are 1 %, and so is room in front of what is jumped to, other than loops.
# (Copies of functions for certain arguments do: without them, pooling takes up to five times as
# long.) Other compilers don't know all of these options.
GCC_ONLY = ["-fno-split-loops", "-fno-version-loops-for-strides", "-fno-plt"]
GCC_ONLY += ["-falign-jumps=1", "-falign-labels=1"]


class BuildExt(build_ext):
    """Translate with Cython only when something is built (an sdist does not need it)."""

    def build_extensions(self):
        if not MSVC and is_gcc(self.compiler.compiler_so[0]):
            for extension in self.extensions:
                extension.extra_compile_args += GCC_ONLY
        super().build_extensions()

    def run(self):
        from Cython.Build import cythonize

        jobs = int(os.environ.get("NPDL_BUILD_JOBS", os.cpu_count() or 1))
        if self.parallel is None:
            self.parallel = jobs
        headers = sorted(map(str, (*HERE.glob("*.h"), *HERE.glob("*.pxd"))))
        for isa, extensions in BUILDS.items():
            done = cythonize(
                extensions,
                build_dir=f"build/cython/{isa}{'-debug' if DEBUG else ''}",  # one tree per ISA
                nthreads=jobs if jobs > 1 else 0,
                compiler_directives=DIRECTIVES,
                shared_utility_qualified_name="npdl._ext._cyutility",
                force=bool(self.force),
                quiet=not self.verbose,
            )
            for ours, theirs in zip(extensions, done, strict=True):
                ours.sources[:] = theirs.sources
                ours.depends[:] = [*theirs.depends, *headers, "setup.py"]  # it has the flags
        super().run()


class SDist(sdist):
    """With SOURCE_DATE_EPOCH, record no time, owner or permissions of this machine."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, **kwargs):
        time = os.environ.get("SOURCE_DATE_EPOCH")
        if not time or format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, **kwargs)
        name = f"{base_name}.tar.gz"
        with (
            open(name, "wb") as file,
            gzip.GzipFile("", "wb", mtime=int(time), fileobj=file) as packed,
            tarfile.open(mode="w", fileobj=packed) as archive,
        ):
            for path in sorted(Path(root_dir or "").glob(f"{base_dir}/**/*")):
                member = archive.gettarinfo(path, path.relative_to(root_dir or ""))
                member.mtime, member.mode = int(time), 0o755 if member.isdir() else 0o644
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                with path.open("rb") if member.isfile() else nullcontext() as content:
                    archive.addfile(member, content)
        return name


setup(
    ext_modules=[e for extensions in BUILDS.values() for e in extensions],
    cmdclass={"build_ext": BuildExt, "sdist": SDist},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {},
)
