"""The network, its training, and the folder that it is saved in."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import npdl
from npdl.data import Vocabulary, pad_sequences
from npdl.data.vocabulary import UNK
from npdl.layers import GRU, Attention, Concatenate, Dense, Dropout, Embedding, Softmax

from .words import answer_words, question_words

Pairs = Sequence[tuple[str, str]]

_MODEL, _QUESTIONS, _ANSWERS, _ABOUT = (
    "model.safetensors",
    "questions.json",
    "answers.json",
    "about.json",
)


class Lessons:
    """Batches of questions and answers, in a new order in each epoch.

    In most of the questions some words are left out, made unknown or put in, so that the network
    does not come to depend on each of them, and understands some paraphrases.

    Parameters
    ----------
    questions, answers : list of ndarray
        Word numbers; answers with beginning and end.
    batch_size : int
    noise : float
        Share of the words that are left out, of those that are made unknown, and of those behind
        which another one is put in.
    seed : int
    """

    def __init__(
        self,
        questions: list,
        answers: list,
        batch_size: int = 32,
        noise: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.questions, self.answers = questions, answers
        self.batch_size, self.noise = batch_size, noise
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return math.ceil(len(self.questions) / self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        order = self.rng.permutation(len(self.questions))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            source = pad_sequences([self._noisy(self.questions[i]) for i in rows], padding="post")
            answers = pad_sequences([self.answers[i] for i in rows], padding="post")
            # Each word of the answer is told from those before it. Padding does not count.
            read, wanted = answers[:, :-1], answers[:, 1:]
            yield [source, read], wanted, (wanted != 0).astype(np.float32)

    def _noisy(self, question: np.ndarray) -> np.ndarray:
        if self.rng.random() < 0.25:
            return question
        noisy: list[int] = []
        for word, drawn in zip(question, self.rng.random(len(question))):
            if drawn >= 2 * self.noise:
                noisy.append(word)
            elif drawn >= self.noise:
                noisy.append(UNK)
            if self.rng.random() < self.noise:
                other = self.questions[self.rng.integers(len(self.questions))]
                noisy.append([UNK, *other][self.rng.integers(1 + len(other))])
        return np.array(noisy or question)


def build(n_questions: int, n_answers: int, width: int, units: int, dropout: float) -> npdl.Model:
    """Return an encoder-decoder with the attention of Bahdanau et al. (2015).

    It has two inputs, the words of the question and those of the answer so far, and gives the
    probabilities of each next word.

    Parameters
    ----------
    n_questions, n_answers : int
        Sizes of the vocabularies.
    width : int
        Of the word vectors.
    units : int
        Of encoder and decoder.
    dropout : float
    """
    question, answer = npdl.Input((None,), name="question"), npdl.Input((None,), name="answer")
    words = {"n_out": width, "mask_zero": True}
    read = Embedding(input_size=n_questions, name="question_words", **words)(question)
    read = Dropout(dropout)(read)
    read, state = GRU(units, return_sequence=True, return_state=True, name="encoder")(read)
    said = Embedding(input_size=n_answers, name="answer_words", **words)(answer)
    said = Dropout(dropout)(said)
    said = GRU(units, return_sequence=True, name="decoder")(said, initial_state=state)
    query = Dense(units, activation="linear", use_bias=False, name="query")(said)
    key = Dense(units, activation="linear", name="key")(read)
    looked_up = Attention("additive", name="attention")(query, read, key)
    both = Dense(units, name="both")(Concatenate(axis=2)(said, looked_up))
    both = Dropout(dropout)(both)
    return npdl.Model([question, answer], Softmax(n_answers, name="softmax")(both))


def train(
    pairs: Pairs,
    *,
    width: int = 96,
    units: int = 192,
    dropout: float = 0.1,
    noise: float = 0.1,
    epochs: int = 70,
    seed: int = 1,
    verbose: int = 1,
) -> tuple[npdl.Model, Vocabulary, Vocabulary]:
    """Train a network on pairs of question and answer; return it with both vocabularies."""
    npdl.utils.set_seed(seed)
    asked = [question_words(question) for question, _ in pairs]
    said = [answer_words(answer) for _, answer in pairs]
    questions, answers = Vocabulary().fit(asked), Vocabulary(lower=False).fit(said)
    sizes = len(questions), len(answers), width, units, dropout
    model = build(*sizes)
    schedule = npdl.schedules.CosineDecay(0.004, epochs * math.ceil(len(pairs) / 32))
    model.compile(
        loss="scce",
        optimizer=npdl.optimizers.Adam(lr=schedule, clipnorm=1.0),
        metrics=["accuracy"],
    )
    lessons = Lessons(
        questions.encode(asked), answers.encode(said, bos=True, eos=True), 32, noise, seed
    )
    model.fit(lessons, epochs=epochs, verbose=verbose)
    trained = build(*sizes)  # without the optimizer's memory, twice as large as the weights
    trained.set_weights(model.get_weights())
    return trained, questions, answers


def save(
    folder: Path,
    model: npdl.Model,
    questions: Vocabulary,
    answers: Vocabulary,
    about: dict[str, Any],
) -> None:
    """Write a network and its vocabularies to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / _MODEL)
    questions.save(folder / _QUESTIONS)
    answers.save(folder / _ANSWERS)
    (folder / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")


def load(folder: Path) -> tuple[npdl.Model, Vocabulary, Vocabulary, dict[str, Any]]:
    """Return what `save` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no network in the folder; the message says how to make one.
    """
    if not (folder / _MODEL).exists():
        raise FileNotFoundError(
            f"There is no trained network in {folder}. Make one: python examples/chatbot train"
        )
    model = npdl.load_model(folder / _MODEL)
    questions, answers = Vocabulary.load(folder / _QUESTIONS), Vocabulary.load(folder / _ANSWERS)
    about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    return model, questions, answers, about
