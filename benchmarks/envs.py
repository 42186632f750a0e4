"""The peers, and one virtual environment for each family of them.

A peer is a library in one way of using it ("torch-compile");
a family is what is installed together.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVS = ROOT / ".cache" / "bench-envs"


@dataclass(frozen=True)
class Family:
    """Packages installed together: a module to check for, and the arguments of pip."""

    module: str
    requirements: tuple[str, ...]


@dataclass(frozen=True)
class Peer:
    """A library in one way of using it."""

    family: str
    adapter: str
    options: tuple[tuple[str, str], ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    modes: tuple[str, ...] = ("train", "predict")
    label: str = ""


FAMILIES = {
    "npdl": Family("npdl", ()),
    "torch": Family("torch", ("torch==2.13.0", "numpy")),
    "jax": Family("jax", ("jax", "jaxlib")),
    "keras": Family("keras", ("tensorflow-cpu", "keras")),
    "onnx": Family("onnxruntime", ("onnxruntime", "onnx")),
}

PEERS = {
    "npdl": Peer("npdl", "npdl_adapter", env=(("NPDL_BACKEND", "cython"),), label="npdl"),
    "npdl-predictor": Peer(
        "npdl",
        "npdl_adapter",
        (("predictor", "1"),),
        env=(("NPDL_BACKEND", "cython"),),
        label="npdl predictor",
        modes=("predict",),
    ),
    "npdl-numpy": Peer(
        "npdl", "npdl_adapter", env=(("NPDL_BACKEND", "numpy"),), label="npdl on NumPy"
    ),
    "torch": Peer("torch", "torch_adapter", label="PyTorch"),
    "torch-compile": Peer("torch", "torch_adapter", (("compile", "1"),), label="torch.compile"),
    "torch-channels-last": Peer(
        "torch", "torch_adapter", (("channels_last", "1"),), label="PyTorch channels_last"
    ),
    "jax": Peer("jax", "jax_adapter", label="JAX"),
    "keras": Peer("keras", "keras_adapter", label="Keras"),
    "onnx": Peer("onnx", "onnx_adapter", label="ONNX Runtime", modes=("predict",)),
}

#: Variables that keep the libraries, and those below them, to AVX2. ONNX Runtime has none.
AVX2 = {
    "NPDL_ISA": "v3",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}

#: The peers that are npdl itself, and so never "the best peer".
OURS = ("npdl", "npdl-predictor", "npdl-numpy")


def env_python(family: str, envs: Path = ENVS) -> Path:
    """The path of the interpreter of a family's environment, whether it exists or not."""
    folder, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return envs / family / folder / name


def find_python(family: str, envs: Path = ENVS, given: dict[str, str] | None = None) -> str | None:
    """The interpreter that has the family: one that was given, its environment's, or this one."""
    if given and family in given:
        return given[family]
    if family == "npdl":
        return sys.executable
    python = env_python(family, envs)
    if python.exists():
        return str(python)
    return sys.executable if importlib.util.find_spec(FAMILIES[family].module) else None


def setup(families: list[str], envs: Path = ENVS) -> None:
    """Make the environment of each family that has none yet, and install into it."""
    for family in families:
        spec, python = FAMILIES[family], env_python(family, envs)
        if not spec.requirements:
            continue
        probe = [str(python), "-c", f"import {spec.module}"]
        if python.exists() and subprocess.run(probe, capture_output=True).returncode == 0:
            print(f"{family}: ready in {envs / family}")
            continue
        print(f"{family}: installing {' '.join(spec.requirements)} into {envs / family}")
        venv.create(envs / family, with_pip=True, clear=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *spec.requirements], check=True
        )
