"""Answers of a trained network, a word at a time.

Nothing here writes on a layer, so any number of threads may share a `Talker`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import npdl
from npdl.data import Vocabulary
from npdl.data.vocabulary import BOS, EOS, PAD, UNK

from .network import load
from .words import LONGEST_ANSWER, LONGEST_QUESTION, known_words, pieces, question_words, written


@dataclass(frozen=True)
class Question:
    """A question that the network has read.

    Attributes
    ----------
    words : list of str
        As they were read.
    known : list of bool
        Which of them are in the vocabulary.
    """

    words: list[str]
    known: list[bool]
    steps: np.ndarray  # the encoder's output, shape (1, T, units)
    keys: np.ndarray  # what the attention compares, shape (1, T, units)
    state: np.ndarray  # its last state, shape (1, units)


class Word(NamedTuple):
    """A word of an answer: its number, probability, and the attention to each question's word."""

    number: int
    probability: float
    attention: np.ndarray


class Answer(NamedTuple):
    """A whole answer and its probability."""

    text: str
    probability: float


class Talker:
    """Reads questions and writes answers.

    Parameters
    ----------
    model : npdl.Model
        Of `npdl.models.seq2seq`.
    questions, answers : Vocabulary
    about : dict, optional
        What the page says of the network.
    """

    def __init__(
        self,
        model: npdl.Model,
        questions: Vocabulary,
        answers: Vocabulary,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.questions, self.answers = model, questions, answers
        self.about = about or {}
        self._layer = {layer.name: layer for layer in model.layers}

    @classmethod
    def load(cls, folder: Path) -> "Talker":
        """Return the talker of a folder that `network.save` wrote."""
        return cls(*load(folder))

    def read(self, text: str) -> Question:
        """Read a question: the network's encoder.

        Raises
        ------
        ValueError
            If there is no word in it, or too many.
        """
        words = known_words(question_words(text), self.questions)
        if not words:
            raise ValueError("There must be a word in the question.")
        if len(words) > LONGEST_QUESTION:
            raise ValueError(
                f"A question must have at most {LONGEST_QUESTION} words. Received: {len(words)}"
            )
        numbers = self.questions.encode([words])[0]
        vectors = self._layer["question_words"].forward(numbers[None], train=False)
        steps, state = self._layer["encoder"].forward(vectors, train=False)
        keys = self._layer["key"].forward(steps, train=False)
        return Question(words, [bool(n != UNK) for n in numbers], steps, keys, state)

    def _next(
        self, question: Question, last: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The next word after each of `last`, shape (N,): log-probabilities, state, attention."""
        layer, n = self._layer, len(last)
        vectors = layer["answer_words"].forward(last[:, None], train=False)
        said, (state,) = layer["decoder"].step(vectors[:, 0], (state,))
        query = layer["query"].forward(said[:, None], train=False)
        steps, keys = np.repeat(question.steps, n, axis=0), np.repeat(question.keys, n, axis=0)
        attention = layer["attention"].weights(query, steps, keys)[:, 0, 0]
        looked_up = np.einsum("nt,ntu->nu", attention, steps)
        both = layer["both"].forward(np.hstack([said, looked_up])[:, None], train=False)
        p = layer["softmax"].forward(both, train=False)[:, 0].astype(np.float64)
        p[:, [PAD, UNK, BOS]] = 0  # no words of an answer
        return np.log(np.maximum(p, 1e-30)), state, attention

    def stream(
        self,
        question: Question,
        temperature: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> Iterator[Word]:
        """Yield the words of an answer, the end included, as the network makes them.

        Parameters
        ----------
        question : Question
        temperature : float
            0 for the likeliest word at each step. Otherwise words are drawn: below 1 the likely
            ones more often than the network would, above 1 less often.
        rng : Generator, optional
        """
        rng = rng or np.random.default_rng()
        last, state = np.array([BOS]), question.state
        for _ in range(LONGEST_ANSWER + 1):
            log_p, state, attention = self._next(question, last, state)
            number = int(log_p[0].argmax())
            if temperature > 0:
                drawn = (log_p[0] - log_p[0].max()) / temperature
                drawn = np.exp(drawn)
                number = int(rng.choice(len(drawn), p=drawn / drawn.sum()))
            yield Word(number, float(np.exp(log_p[0, number])), attention[0])
            if number == EOS:
                return
            last = np.array([number])

    def answer(
        self, text: str, temperature: float = 0.0, rng: np.random.Generator | None = None
    ) -> str:
        """Return the answer to a question."""
        words = self.stream(self.read(text), temperature, rng)
        return self.written([word.number for word in words])

    def beam(self, question: Question, width: int = 8, best: int = 5) -> list[Answer]:
        """Return the most probable answers that a beam search finds, the most probable first.

        Parameters
        ----------
        question : Question
        width : int
            How many beginnings are followed.
        best : int
            How many answers are returned at most.
        """
        beginnings: list[list[int]] = [[]]
        scores, state = np.zeros(1), question.state
        done: list[tuple[float, list[int]]] = []
        for _ in range(LONGEST_ANSWER + 1):
            last = np.array([words[-1] if words else BOS for words in beginnings])
            log_p, state, _ = self._next(question, last, state)
            total = scores[:, None] + log_p
            top = np.argsort(-total, axis=None, kind="stable")[:width]
            kept = []
            for row, number in zip(*np.unravel_index(top, total.shape)):
                score = float(total[row, number])
                if number == EOS:
                    done.append((score, beginnings[row]))
                else:
                    kept.append((score, row, [*beginnings[row], int(number)]))
            finished = sorted((score for score, _ in done), reverse=True)
            # No beginning can become more probable than it is.
            if not kept or (len(finished) >= best and kept[0][0] <= finished[best - 1]):
                break
            scores = np.array([score for score, _, _ in kept])
            state = state[[row for _, row, _ in kept]]
            beginnings = [words for _, _, words in kept]
        found: dict[str, float] = {}
        for score, words in done:
            text = self.written(words)
            found[text] = found.get(text, 0.0) + float(np.exp(score))
        ranked = sorted(found.items(), key=lambda item: -item[1])
        return [Answer(text, p) for text, p in ranked[:best] if text]

    def pieces(self, numbers: list[int]) -> list[str]:
        """Return the words of an answer, each with the space in front of it; '' for the end."""
        made = pieces([self.answers[n] for n in numbers if n != EOS])
        return [*made, *[""] * (len(numbers) - len(made))]

    def written(self, numbers: list[int]) -> str:
        """Return the text of an answer."""
        return written([self.answers[n] for n in numbers if n != EOS])
