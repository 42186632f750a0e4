"""Run the examples on real data and write the pages of docs/examples/ from their output.

python tools/make_gallery.py                    all of them, an hour or so
python tools/make_gallery.py names glucose      these alone
python tools/make_gallery.py --index            the table of figures alone, from the pages

Each runs on one thread; the time on its page is that of the processor. Only the speed, in samples
per second, is left out of what an example prints.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "examples"

#: Script, title, options of each run, whether it draws, and what its picture shows.
EXAMPLES: dict[str, tuple[str, list[str], str]] = {
    "mnist": (
        "Handwritten digits",
        ["--model mlp", "--model cnn"],
        "Digits that are read wrong",
    ),
    "fashion": (
        "Clothes",
        ["--model cnn", "--model resnet"],
        "The most certain mistakes",
    ),
    "names": ("Names", ["--task language", "--task gender"], ""),
    "tweets": ("Sentiment of tweets", ["--model cnn", "--model lstm"], ""),
    "emma": ("A language model", ["--model rnn", "--model lstm"], ""),
    "glucose": ("A forecast", [""], "A day of forecasts, 30 minutes ahead"),
    "anomalies": (
        "Anomalies",
        [""],
        "Digits, and their reconstructions by a network that was trained only on nines",
    ),
    "words": ("Reading words", [""], "Pictures of words, and the words that were read"),
    "addition": ("Addition", [""], ""),
    "transfer": ("Transfer learning", [""], ""),
    "shapes": ("Segmentation", [""], "Pictures, the true classes of their pixels, those found"),
}


def run(script: str, options: str, picture: Path | None) -> tuple[str, float]:
    """The output of an example, and its processor time in seconds."""
    command = [sys.executable, str(ROOT / "examples" / f"{script}.py"), *options.split()]
    if picture:
        command += ["--picture", str(picture)]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "NPDL_NUM_THREADS": "1", "PYTHONPATH": paths}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, encoding="utf-8"
    ).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    output = re.sub(r" +[\d,]+ samples/s$", "", output, flags=re.MULTILINE)
    return "\n".join(line.rstrip() for line in output.strip().splitlines()), seconds


def write_page(script: str) -> None:
    """Run an example, and write its page."""
    title, runs, caption = EXAMPLES[script]
    text = (ROOT / "examples" / f"{script}.py").read_text("utf-8")
    head = text.split('"""')[1]
    paragraphs = [p for p in head.split("\n\n") if not p.startswith("    python")]
    parts = [f"# {title}", *(p.strip() for p in paragraphs)]
    for options in runs:
        name = "-".join([script, *re.findall(r"\w+$", options)])
        picture = OUT / f"{name}.png" if caption else None
        output, seconds = run(script, options, picture)
        command = f"python examples/{script}.py {options}".strip()
        parts.append(f"```\n$ {command}\n{output}\n```")
        parts.append(f"Processor time: {seconds:.0f} s.")
        if picture:
            parts.append(f"![{caption}]({picture.name})")
    parts.append(
        f"The script:\n\n```{{literalinclude}} ../../examples/{script}.py\n:language: python\n```"
    )
    (OUT / f"{script}.md").write_text("\n\n".join(parts) + "\n", "utf-8")


def table() -> str:
    """The table of the index: each run with its result, the one to beat, and its time."""
    lines = ["| example | reached | to beat | time |", "|---|---|---|---:|"]
    for script, (title, _, _) in EXAMPLES.items():
        if not (OUT / f"{script}.md").exists():
            continue
        page = (OUT / f"{script}.md").read_text("utf-8")
        found = re.findall(
            r"\$ python examples/\S+ ?(.*)\n[^`]*?^reached: (.*) \(to beat: (.*)\)\n```\n\n"
            r"Processor time: (\d+) s",
            page,
            re.MULTILINE,
        )
        for options, reached, beaten, seconds in found:
            kind = f", `{options}`" if options else ""
            lines.append(f"| [{title}]({script}.md){kind} | {reached} | {beaten} | {seconds} s |")
    return "\n".join(lines)


def write_index() -> None:
    """Replace the table in the index."""
    path = OUT / "index.md"
    text = path.read_text("utf-8")
    begin, end = "<!-- figures -->\n", "\n<!-- end of figures -->"
    head, tail = text.split(begin)[0], text.split(end)[1]
    path.write_text(f"{head}{begin}\n{table()}\n{end}{tail}", "utf-8")


def main() -> None:
    """Called from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("examples", nargs="*", metavar="example", help="default: all of them")
    parser.add_argument("--index", action="store_true", help="write the table alone")
    options = parser.parse_args()
    wanted = options.examples or ([] if options.index else list(EXAMPLES))
    for script in wanted:
        if script not in EXAMPLES:
            parser.error(f"an example must be one of {', '.join(EXAMPLES)}. Received: {script}")
        print(script, flush=True)
        write_page(script)
    write_index()


if __name__ == "__main__":
    main()
