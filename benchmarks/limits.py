"""The machine, and the limit to which a step is compared: the peak rate of multiply-adds.

Run as ``python -m benchmarks.limits THREADS`` it measures in a process of its own and prints JSON.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.envs import AVX2, ROOT


def machine() -> dict[str, Any]:
    """The machine that was measured."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = dict(line.split("\t:", 1) for line in lines if "\t:" in line.replace("\t\t", "\t"))
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(fields.get("flags", "").split())
    kinds = ("avx2", "sse4_2") if _without_avx512() else ("avx512f", "avx2", "sse4_2")
    return {
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "vectors": next((f for f in kinds if f in flags), "?"),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "date": time.strftime("%Y-%m-%d"),
    }


def _without_avx512() -> bool:
    """Whether the run is kept to AVX2."""
    return AVX2.items() <= os.environ.items()


def fma_gflops(threads: int) -> float | None:
    """The measured peak of multiply-adds, by ``fma_peak.c``; None where it can't be compiled."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    target = "haswell" if _without_avx512() else "native"
    flags = ["-O3", f"-march={target}", "-ffp-contract=fast", "-pthread"]
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "fma_peak")
        source = str(Path(__file__).with_name("fma_peak.c"))
        built = subprocess.run([compiler, *flags, source, "-o", program], capture_output=True)
        if built.returncode:
            return None
        done = subprocess.run([program, str(threads)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def sgemm_gflops(n: int = 1024, repeats: int = 60) -> float:
    """The best rate of NumPy's own product of two float32 matrices."""
    import numpy as np

    a = np.random.default_rng(0).random((n, n), np.float32)
    b, c = a.copy(), a.copy()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        np.matmul(a, b, out=c)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e9


def limits(threads: int) -> dict[str, Any]:
    """Measured rates, GFLOP/s: "fma" if it can be had, "sgemm", and the "limit" that is used."""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPDL_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.limits", str(threads)],
        env=os.environ | dict.fromkeys(variables, str(threads)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    rates = json.loads(done.stdout)
    if rates["fma"]:
        return {**rates, "limit": rates["fma"], "limit_is": "the measured peak of multiply-adds"}
    return {**rates, "limit": rates["sgemm"], "limit_is": "the measured rate of NumPy's sgemm"}


if __name__ == "__main__":
    from benchmarks.worker import pin

    n_threads = int(sys.argv[1])
    pin(n_threads)
    print(json.dumps({"fma": fma_gflops(n_threads), "sgemm": sgemm_gflops()}))
