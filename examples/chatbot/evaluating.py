"""How many questions a network answers right: those that it learned, and paraphrases of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .talker import Talker
from .words import answer_words, question_words, written

PARAPHRASES = Path(__file__).with_name("paraphrases.txt")


class Mistake(NamedTuple):
    """A question that was answered otherwise than hoped for."""

    question: str
    about: str
    answer: str


class Result(NamedTuple):
    """How many questions were asked, and those that were answered wrong."""

    asked: int
    mistakes: list[Mistake]

    def __str__(self) -> str:
        right = self.asked - len(self.mistakes)
        return f"{right} of {self.asked} ({right / max(self.asked, 1):.1%})"


def answers_by_question(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, ...], set[str]]:
    """Return the right answers to each question, as the network writes them."""
    right: dict[tuple[str, ...], set[str]] = {}
    for question, answer in pairs:
        text = written(answer_words(answer))
        right.setdefault(tuple(question_words(question)), set()).add(text)
    return right


def learned(talker: Talker, pairs: Iterable[tuple[str, str]]) -> Result:
    """Ask each question that was learned; right is any of its answers, word for word."""
    right = answers_by_question(pairs)
    asked = [(" ".join(words), " ".join(words)) for words in right]
    return _ask(talker, asked, right)


def paraphrased(talker: Talker, pairs: Iterable[tuple[str, str]]) -> Result:
    """Ask each paraphrase; right is any answer to the question that it is about.

    Raises
    ------
    ValueError
        If that question is not in the corpus.
    """
    right = answers_by_question(pairs)
    asked = read_paraphrases()
    for _, about in asked:
        if tuple(question_words(about)) not in right:
            raise ValueError(f"{PARAPHRASES.name} is about a question that is not there: {about!r}")
    return _ask(talker, asked, right)


def read_paraphrases() -> list[tuple[str, str]]:
    """Return the paraphrases, each with the question that it is about."""
    lines = PARAPHRASES.read_text(encoding="utf-8").splitlines()
    parts = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return [(paraphrase.strip(), about.strip()) for paraphrase, _, about in parts]


def _ask(
    talker: Talker, asked: list[tuple[str, str]], right: dict[tuple[str, ...], set[str]]
) -> Result:
    mistakes = []
    for question, about in asked:
        answer = talker.answer(question)
        if answer not in right[tuple(question_words(about))]:
            mistakes.append(Mistake(question, about, answer))
    return Result(len(asked), mistakes)
