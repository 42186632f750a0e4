"""Command line of the benchmarks: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks import (
    cores,
    envs,
    footprint,
    geometry,
    kernels,
    limits,
    race,
    report,
    scaling,
    steps,
)
from benchmarks.process import note
from benchmarks.versions import versions, versions_table
from benchmarks.workloads import WORKLOADS

SWEPT_THREADS = ("mlp784", "mnistcnn", "lstm256")


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    setup = commands.add_parser("peers-setup", help="make one environment for each peer family")
    setup.add_argument("--families", type=_names(envs.FAMILIES), default=list(envs.FAMILIES))
    for name, (text, _) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("--peers", type=_names(envs.PEERS), help="comma-separated")
        command.add_argument("--workloads", type=_names(WORKLOADS), help="comma-separated")
        command.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
        command.add_argument("--rounds", type=int, default=5, help="turns of each library")
        command.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
        command.add_argument("--only", nargs="*", default=[], help="geometries with these words")
        command.add_argument("--avx2", action="store_true", help="as on a CPU without AVX-512")
        command.add_argument("--no-check", action="store_true", help="don't compare the numbers")
        command.add_argument(
            "--python",
            action="append",
            default=[],
            metavar="FAMILY=PATH",
            help="interpreter of a family, instead of its environment's",
        )
    commands.choices["versions"].add_argument(
        "--other", type=Path, required=True, help="a checkout whose kernels are built in place"
    )
    for command in commands.choices.values():
        command.add_argument("--envs", type=Path, default=envs.ENVS, help="the environments")
    return top


def _names(known: Any) -> Any:
    """The type of an option that takes names from a table, separated by commas."""

    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def pythons(args: argparse.Namespace, mode: str, default: tuple[str, ...]) -> dict[str, str]:
    """The interpreter of each requested peer that is installed."""
    given = dict(item.split("=", 1) for item in args.python)
    found = {}
    for peer in args.peers or default:
        spec = envs.PEERS[peer]
        python = envs.find_python(spec.family, args.envs, given)
        if mode not in spec.modes:
            note(f"{peer} is left out: it is not for `{mode}`")
        elif python is None:
            note(f"{peer} is left out: run `python -m benchmarks peers-setup` first")
        else:
            found[peer] = python
    return found


def setting(args: argparse.Namespace, with_limit: bool = False) -> dict[str, Any]:
    """The facts written beside the results."""
    found: dict[str, Any] = {
        "machine": limits.machine(),
        "threads": args.threads,
        "command": "python -m benchmarks " + " ".join(sys.argv[1:]),
    }
    if with_limit:
        found["limit"] = limits.limits(args.threads)
    return found


def run_race(args: argparse.Namespace, mode: str, batches: list[int | None], title: str) -> None:
    """Time, tabulate and draw the workloads."""
    default = tuple(peer for peer, spec in envs.PEERS.items() if mode in spec.modes)
    plan = race.Plan(
        pythons(args, mode, default),
        args.threads,
        args.rounds,
        args.seconds,
        check=not args.no_check,
    )
    known = [n for n, w in WORKLOADS.items() if mode == "train" or w.predicts]
    facts = setting(args, with_limit=True)
    rows, facts["versions"] = race.run(plan, mode, args.workloads or known, batches)
    after = limits.limits(args.threads)  # another program may have run during the first measurement
    facts["limit"] = max(facts["limit"], after, key=lambda found: found["limit"])
    text = report.race_table(rows, facts["limit"]["limit"])
    text = f"{title}\n\n{text}\n\n{report.header(facts, facts['versions'])}"
    report.save(mode, facts, rows, text)
    report.chart(mode, rows, f"{title.split(',')[0]}, float32, {args.threads} threads")


def train(args: argparse.Namespace) -> None:
    """Training steps."""
    title = "Training, ms a step (forward, loss, backward, SGD), float32"
    run_race(args, "train", [None], title)


def predict(args: argparse.Namespace) -> None:
    """Prediction of one sample and of a batch."""
    run_race(args, "predict", [1, None], "Prediction, ms a call, float32")


def finish(args: argparse.Namespace, name: str, content: Any, text: str) -> None:
    """Write and print the results of a smaller benchmark."""
    facts = setting(args)
    report.save(name, facts, content, f"{text}\n\n{report.header(facts, {})}")


def kernel_times(args: argparse.Namespace) -> None:
    """Kernels against twins."""
    rows = kernels.kernels(args.seconds)
    finish(args, "kernels", rows, kernels.kernels_table(rows))


def program_steps(args: argparse.Namespace) -> None:
    """The kernels of predictors."""
    known = [n for n, w in WORKLOADS.items() if w.predicts]
    rows = steps.steps_of(args.workloads or known, args.threads, args.seconds)
    finish(args, "steps", rows, steps.steps_table(rows))


def geometries(args: argparse.Namespace) -> None:
    """Layers of every shape."""
    peers = pythons(args, "train", ("npdl", "torch"))
    rows = geometry.times(peers, args.threads, args.rounds, args.seconds, args.only)
    finish(args, "geometry", rows, geometry.geometry_table(rows))


def import_times(args: argparse.Namespace) -> None:
    """Import times."""
    found = footprint.imports(
        pythons(args, "train", ("npdl", "torch", "jax", "keras")), args.rounds
    )
    finish(args, "import", found, footprint.imports_table(found))


def peak_memory(args: argparse.Namespace) -> None:
    """Peak memory of training."""
    peers = pythons(args, "train", ("npdl", "npdl-numpy", "torch", "jax", "keras"))
    found = footprint.memory(peers, args.workloads or WORKLOADS, args.threads)
    finish(args, "memory", found, footprint.memory_table(found))


def fit(args: argparse.Namespace) -> None:
    """The overhead of `fit` over its steps."""
    names = args.workloads or WORKLOADS
    peers = pythons(args, "train", ("npdl",))
    found = footprint.overhead("fit_overhead", peers, names, args.threads, args.seconds)
    finish(args, "fit", found, footprint.fit_table(found))


def neighbour(args: argparse.Namespace) -> None:
    """The cost of a NumPy product between two steps, beyond its own time."""
    names = args.workloads or ("mlp784", "lenet5", "lstm128")
    peers = pythons(args, "train", ("npdl",))
    found = footprint.overhead("neighbour", peers, names, args.threads, args.seconds)
    finish(args, "neighbour", found, footprint.neighbour_table(found))


def scale(args: argparse.Namespace) -> None:
    """Growth of the cost with the work, and speedup by threads."""
    peers = pythons(args, "train", ("npdl", "torch"))
    points = scaling.sweeps(peers, args.threads, args.seconds)
    names = args.workloads or SWEPT_THREADS
    points += scaling.threads_sweep(peers, names, args.threads, args.seconds)
    finish(args, "scaling", points, scaling.tables(points))


def more_cores(args: argparse.Namespace) -> None:
    """A training step on 1 to 64 cores, simulated."""
    rows = cores.simulate(args.workloads or WORKLOADS)
    finish(args, "cores", rows, cores.cores_table(rows))


def two_versions(args: argparse.Namespace) -> None:
    """Training steps in two checkouts."""
    names = args.workloads or WORKLOADS
    pairs = versions(args.other.resolve(), names, args.threads, args.rounds, args.seconds)
    finish(args, "versions", pairs, versions_table(pairs))


def everything(args: argparse.Namespace) -> None:
    """All benchmarks, one after another."""
    for name, (_, command) in COMMANDS.items():
        if command not in (everything, two_versions):
            print(f"\n## {name}\n")
            command(args)


COMMANDS = {
    "train": ("training steps against the peers", train),
    "predict": ("prediction against the peers, one sample and a full batch", predict),
    "kernels": ("each Cython kernel against its NumPy twin", kernel_times),
    "steps": ("the kernels of each predictor, with their times", program_steps),
    "geometry": ("layers of every shape against PyTorch's", geometries),
    "import": ("import time over NumPy's", import_times),
    "memory": ("peak memory of a training process", peak_memory),
    "fit": ("what `fit` costs over the bare steps", fit),
    "neighbour": ("`np.matmul` between two steps: two pools of threads in turns", neighbour),
    "scaling": ("cost by threads, batch, sequence length and image size", scale),
    "cores": ("a training step on 1 to 64 cores, simulated", more_cores),
    "versions": ("training steps against those of another checkout", two_versions),
    "all": ("all but `versions`", everything),
}


def main() -> None:
    """Run the command."""
    args = parser().parse_args()
    if args.command == "peers-setup":
        envs.setup(args.families, args.envs)
        return
    if args.avx2:
        os.environ.update(envs.AVX2)
    COMMANDS[args.command][1](args)


if __name__ == "__main__":
    main()
