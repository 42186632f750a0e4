"""The parent's side of a worker: start it, ask it, end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.envs import PEERS, ROOT


class WorkerError(RuntimeError):
    """A worker failed; the message is its traceback."""


class Worker:
    """One library in a separate process."""

    def __init__(self, peer: str, python: str, threads: int, root: Path = ROOT) -> None:
        spec = PEERS[peer]
        self.peer = peer
        self.root = root
        config = {"adapter": spec.adapter, "options": dict(spec.options), "threads": threads}
        env = os.environ | dict(spec.env)
        env |= {"PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"}
        env |= dict.fromkeys(("OMP_NUM_THREADS", "NPDL_NUM_THREADS"), str(threads))
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker", json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("BENCH_VERBOSE") else subprocess.DEVNULL,
            text=True,
            env=env,
            cwd=root,
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and return the answer; WorkerError if there is none."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{self.peer} ended with code {self._process.wait()}.")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.peer}: {answer['error']}")
        return answer

    def arrays(self, do: str, folder: Path) -> list[np.ndarray]:
        """Ask for arrays ("gradients" or "outputs"), which come by way of a file."""
        file = folder / f"{self.peer}.npz"
        self.ask(do, file=str(file))
        with np.load(file) as data:
            return [data[name] for name in data.files]

    def close(self) -> None:
        """End the process."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


def note(text: str) -> None:
    """Report progress on standard error."""
    print(text, file=sys.stderr, flush=True)
