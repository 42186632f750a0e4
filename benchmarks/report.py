"""Tables, files and the chart."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.envs import PEERS
from benchmarks.race import Row

RESULTS = Path(__file__).parent / "results"

#: A load above this means that something else was running.
BUSY = 0.5


def ms(value: float | None) -> str:
    """Three digits; nothing was measured: a dash."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its first column to the left and the others to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join(
        "| "
        + " | ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])])
        + " |"
        for cells in [lines[0], rule, *lines[1:]]
    )


def mean_speedup(rows: Iterable[Row]) -> float | None:
    """Geometric mean of npdl's speed over the best peer's."""
    logs = [math.log(row.speedup) for row in rows if row.speedup]
    return math.exp(sum(logs) / len(logs)) if logs else None


def race_table(rows: Sequence[Row], limit: float) -> str:
    """ms of every library, the best peer, npdl's speed over it, and npdl's rate."""
    peers = [p for p in PEERS if any(p in row.times for row in rows)]
    head = ["workload (batch)", *(PEERS[p].label for p in peers)]
    head += ["best peer", "npdl over it", "GFLOP", "GFLOP/s", "of the limit"]
    predictor = "npdl-predictor" in peers
    if predictor:
        head.append("predictor over the peer")
    lines = []
    for row in rows:
        mark = " (!)" if row.complaints else ""
        line = [f"{row.title} ({row.batch}){mark}", *(ms(row.times.get(p)) for p in peers)]
        rate = row.gflop / row.times["npdl"] * 1e3 if "npdl" in row.times else None
        line += [
            PEERS[row.best_peer].label if row.best_peer else "-",
            f"{row.speedup:.2f}" if row.speedup else "-",
            f"{row.gflop:.2g}" if row.gflop < 10 else f"{row.gflop:.0f}",
            f"{rate:.0f}" if rate else "-",
            f"{rate / limit:.0%}" if rate else "-",
        ]
        if predictor:
            speedup = row.speedup_of("npdl-predictor")
            line.append(f"{speedup:.2f}" if speedup else "-")
        lines.append(line)
    text = table(head, lines)
    mean = mean_speedup(rows)
    if mean:
        text += f"\n\nGeometric mean of npdl's speed over the best peer's: {mean:.2f}"
    wrong = [f"- {row.workload}: {c}" for row in rows for c in row.complaints]
    if wrong:
        text += "\n\n(!) The libraries do not compute the same numbers:\n" + "\n".join(wrong)
    return text


def header(setting: dict[str, Any], versions: dict[str, str]) -> str:
    """The machine, the limit, the versions and the command, in a few lines."""
    m, lines = setting["machine"], []
    lines.append(f"{m['cpu']} ({m['vectors']}), {m['cores']} cores, {setting['threads']} threads")
    lines.append(f"{m['system']}, Python {m['python']}, {m['date']}")
    if (m["load"] or 0) > BUSY:
        lines.append(
            f"**The machine was busy: load {m['load']} before the run. Don't trust this.**"
        )
    if "limit" in setting:
        limit = setting["limit"]
        lines.append(f"Limit: {limit['limit']:.0f} GFLOP/s, {limit['limit_is']}")
    lines.append("; ".join(dict.fromkeys(versions.values())))
    lines.append(f"`{setting['command']}`")
    return "\n".join(f"- {line}" for line in lines if line)


def save(name: str, setting: dict[str, Any], content: Any, text: str) -> None:
    """Write results/NAME.json and results/NAME.md, and print the text."""
    RESULTS.mkdir(exist_ok=True)
    if isinstance(content, list):
        content = [asdict(row) for row in content]
    data = {"setting": setting, "results": content}
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(text + "\n")
    print(text)
    print(f"\nWritten to {RESULTS / name}.json and .md")


def chart(name: str, rows: Sequence[Row], title: str) -> None:
    """Write results/NAME.png, the time of each library over npdl's; without matplotlib, say so."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullFormatter, StrMethodFormatter
    except ImportError:
        print("No chart: pip install matplotlib")
        return
    rows = [row for row in rows if "npdl" in row.times]
    peers = [p for p in PEERS if p != "npdl" and any(p in row.times for row in rows)]
    if not peers:
        return
    figure = Figure(figsize=(10, 1.6 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(1, color="black", linewidth=1.5, label="npdl")
    marks = dict(zip(PEERS, zip("*XsovD^Pp", ("k", "0.3", "0.6", *(f"C{i}" for i in range(6))))))
    for peer in peers:
        marker, color = marks[peer]
        shown = [(k, row) for k, row in enumerate(rows) if peer in row.times]
        axes.scatter(
            [row.times[peer] / row.times["npdl"] for _, row in shown],
            [k for k, _ in shown],
            marker=marker,
            label=PEERS[peer].label,
            color=color,
            zorder=3,
        )
    for k, row in enumerate(rows):
        if row.speedup:
            place = (row.speedup, k - 0.18)
            axes.annotate(f"{row.speedup:.2f}", place, ha="center", va="bottom", fontsize=7)
    axes.set_xscale("log")
    axes.set_xticks([t for t in (0.25, 0.5, 1, 2, 4, 8, 16, 32) if _within(t, rows)])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(rows)), [f"{row.title} ({row.batch})" for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.grid(color="0.9", zorder=0)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(
        "time over npdl's: to the right of the line npdl is faster. The number: the best peer"
    )
    axes.set_title(title, loc="left")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    figure.savefig(RESULTS / f"{name}.png", dpi=130)
    print(f"Chart: {RESULTS / name}.png")


def _within(tick: float, rows: Sequence[Row]) -> bool:
    """Whether a tick is near the data."""
    ratios = [time / row.times["npdl"] for row in rows for time in row.times.values()]
    return min(ratios) / 1.5 <= tick <= max(ratios) * 1.5
