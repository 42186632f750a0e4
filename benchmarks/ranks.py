"""Cost of a training step in several processes: the sum of gradients, and steps of networks.

::

    mpiexec -n 4 python -m benchmarks.ranks
    bash benchmarks/two_hosts.sh -n 2 python -m benchmarks.ranks    # over TCP

The first table compares `npdl.distributed`, which adds up in the order of the ranks, with the
Allreduce of the MPI, and with the formula of docs/distributed.md. The line below shows whether this
MPI sends while the processes compute. The second table times steps of networks whose batch is
shared out. All times are the best of many rounds, of the slowest process in each.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

# NumPy reads it at import: the products below are of one thread.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from mpi4py import MPI

import npdl
from npdl import distributed
from npdl.distributed._ranks import STEP, Ranks
from npdl.layers import LSTM, Convolution, Dense, Flatten, MaxPooling, Softmax

#: Bytes of gradients in float32.
SIZES = (4_000, 40_000, 400_000, 4_000_000, 40_000_000)
#: The size whose time tells the bandwidth: larger ones do not fit into the caches.
FITTED = 3
BATCH = 256


def best_ms(ranks: Ranks, function: Callable[[], Any], rounds: int) -> float:
    """The time of the slowest process, in the best round: others may use the machine too."""
    times = []
    for _ in range(rounds + 2):
        ranks.comm.Barrier()
        start = time.perf_counter()
        function()
        times.append(ranks.comm.allreduce(time.perf_counter() - start, MPI.MAX))
    return 1e3 * min(times[2:])


def sums(ranks: Ranks, rounds: int) -> list[str]:
    """A row for each size; latency and bandwidth are those that fit 4 kB and 4 MB."""
    found = []
    for size in SIZES:
        flat, room = np.ones(size // 4, np.float32), np.empty(size // 4, np.float32)

        def own(flat: Any = flat) -> None:
            ranks.meet(STEP, 1.0)
            ranks.add(flat)
            flat[...] = 1

        def theirs(flat: Any = flat, room: Any = room) -> None:
            ranks.comm.Allreduce(flat, room)

        count = rounds if size > 1_000_000 else 10 * rounds
        found.append([best_ms(ranks, f, count) for f in (own, theirs)])
    messages, part = 2 * (ranks.size - 1), 2 * (ranks.size - 1) / ranks.size
    alpha = found[0][0] / messages
    beta = part * SIZES[FITTED] / (found[FITTED][0] - messages * alpha)
    rows = [f"{'bytes':>12} {'npdl, ms':>10} {'formula, ms':>12} {'Allreduce, ms':>14}"]
    for size, (ms, other) in zip(SIZES, found):
        formula = messages * alpha + part * size / beta
        rows.append(f"{size:>12,} {ms:>10.3f} {formula:>12.3f} {other:>14.3f}")
    rows.append(f"the formula with a latency of {1e3 * alpha:.0f} us and {beta / 1e6:.2f} GB/s")
    return rows


def overlap(ranks: Ranks, rounds: int) -> list[str]:
    """The time saved when the exchange of 10 MB overlaps with matrix products."""
    n = ranks.size
    flat, x = np.ones(2_500_000 // n * n, np.float32), np.ones((600, 600), np.float32)
    own = flat.size // n
    parts, places = np.empty((n, own), np.float32), [own * i for i in range(n)]
    messages = [flat, ([own] * n, places)], [parts, ([own] * n, places)]

    def compute() -> None:
        for _ in range(3):
            x @ x

    def after() -> None:
        compute()
        ranks.comm.Alltoallv(*messages)

    def behind() -> None:
        request = ranks.comm.Ialltoallv(*messages)
        compute()
        request.Wait()

    times = [best_ms(ranks, f, rounds) for f in (compute, after, behind)]
    return [
        "{:.1f} ms of products; the exchange after them {:.1f}, behind them {:.1f}".format(*times)
    ]


def networks() -> dict[str, tuple[list[Any], tuple[int, ...]]]:
    """Layers, and the shape of a sample."""
    cnn = [Convolution(16, 3), MaxPooling(2), Convolution(32, 3), MaxPooling(2), Flatten()]
    return {
        "mlp 784-512-512": ([Dense(512), Dense(512)], (784,)),
        "cnn 16-32": (cnn, (1, 28, 28)),
        "lstm 128, T 30": ([LSTM(n_out=128)], (30, 64)),
    }


def steps(ranks: Ranks, count: int) -> list[str]:
    """A row for each network: time of a step, samples a second, and the share of the exchange."""
    rows = [f"{'network':>16} {'numbers':>10} {'step, ms':>10} {'alone, ms':>10} {'samples/s':>10}"]
    for name, (layers, shape) in networks().items():
        with npdl.use_rng(0):
            model = npdl.Model([*layers, Softmax(10)])
            rng = np.random.default_rng(ranks.rank)
            n = BATCH // ranks.size
            X, Y = rng.random((n, *shape), np.float32), rng.integers(0, 10, n)
            times = []
            for wrap in (distributed.DistributedOptimizer, lambda one: one):
                model.compile("scce", wrap(npdl.optimizers.SGD(lr=0.01)))
                model.build((None, *shape))
                distributed.broadcast(model)
                batch = [(X, Y)] * count
                model.fit(batch[:2], epochs=1, verbose=0)
                ms = best_ms(ranks, lambda: model.fit(batch, epochs=1, verbose=0), 9)  # noqa: B023
                times.append(ms / count)
        size = sum(array.size for array in model.weights.values())
        speed = BATCH / times[0] * 1e3
        rows.append(f"{name:>16} {size:>10,} {times[0]:>10.2f} {times[1]:>10.2f} {speed:>10,.0f}")
    return rows


def main() -> None:
    """Print both tables, on process 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10, help="of each network; 0 for none")
    args = parser.parse_args()
    ranks = Ranks()
    distributed.DistributedOptimizer("sgd")  # the processes of a machine now share its cores

    def tell(*lines: str) -> None:
        if ranks.rank == 0:
            print(*lines, sep="\n", flush=True)

    tell(f"{ranks.size} processes, {npdl.get_num_threads()} threads each, batch {BATCH}")
    if ranks.size > 1:
        tell(*sums(ranks, args.rounds), "", *overlap(ranks, args.rounds))
    if args.steps:
        tell("", *steps(ranks, args.steps))


main()
