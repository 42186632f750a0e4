"""Words or characters, and their numbers."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._checks import check_choice, check_int, error_message, label_array
from npdl._files import StrPath, atomic_write

#: The numbers that every vocabulary begins with.
SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
PAD, UNK, BOS, EOS = range(4)

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_FORMAT = 1


class Vocabulary:
    """The words, or characters, of a collection of texts, and their numbers.

    0 is padding, 1 an unknown word, 2 and 3 the beginning and the end of a text. Then come further
    special entries, then words, the most frequent first; words that are as frequent as each other
    are in alphabetical order.

    Parameters
    ----------
    level : {"word", "char"}
        Whether a text is split into words, each punctuation mark being one, or into characters.
        A text that is a list of strings has been split already and is taken as it is.
    min_count : int
        Less frequent words are unknown.
    max_size : int, optional
        Number of entries at most, special ones included; the rarest words are left out.
    lower : bool, optional
        Whether to make texts lower-case first. By default words are and characters are not.
    specials : sequence of str
        Further special entries, such as ``["<sep>"]``, with the numbers from 4. They are only found
        in texts that have been split already.

    Examples
    --------
    >>> from npdl.data import Vocabulary, pad_sequences
    >>> vocabulary = Vocabulary().fit(["The cat sat.", "The dog sat too."])
    >>> len(vocabulary), vocabulary[6]
    (10, 'the')
    >>> vocabulary.encode("the cat ran.").tolist()
    [6, 7, 1, 4]
    >>> vocabulary.decode([6, 7, 1, 4, 0, 0])
    'the cat <unk> .'
    >>> pad_sequences(vocabulary.encode(["the cat", "sat"]), padding="post").tolist()
    [[6, 7], [5, 0]]
    """

    def __init__(
        self,
        level: str = "word",
        *,
        min_count: int = 1,
        max_size: int | None = None,
        lower: bool | None = None,
        specials: Sequence[str] = (),
    ) -> None:
        self.level = check_choice("level", level, ("word", "char"))
        self.min_count = check_int("min_count", min_count)
        self.specials = (*SPECIALS, *_as_strings("specials", specials))
        if max_size is not None:
            check_int("max_size", max_size, len(self.specials))
        self.max_size = max_size
        self.lower = level == "word" if lower is None else bool(lower)
        self._set_words([])

    def _set_words(self, words: Sequence[str]) -> None:
        self.words = (*self.specials, *words)
        self._numbers = {word: number for number, word in enumerate(self.words)}
        if len(self._numbers) < len(self.words):
            word = Counter(self.words).most_common(1)[0][0]
            raise ValueError(
                error_message("Each word must be in a vocabulary only once", word=word)
            )

    def __len__(self) -> int:
        """Number of entries, special ones included: the `input_size` of an `Embedding`."""
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._numbers

    def __getitem__(self, key: str | int) -> Any:
        """Return the number of a word (1 if it is unknown), or the word of a number."""
        if isinstance(key, str):
            return self._numbers.get(key, UNK)
        if not 0 <= key < len(self.words):
            raise IndexError(error_message(f"A number must lie in [0, {len(self)})", number=key))
        return self.words[key]

    def split(self, text: str | Iterable[str]) -> list[str]:
        """Return a text as a list of words or characters.

        Parameters
        ----------
        text : str or iterable of str
        """
        if not isinstance(text, str):
            return _as_strings("text", text)
        text = text.lower() if self.lower else text
        return _WORD.findall(text) if self.level == "word" else list(text)

    def fit(self, texts: str | Iterable[str | Iterable[str]]) -> Vocabulary:
        """Learn the words of `texts`, replacing any earlier ones, and return self.

        Parameters
        ----------
        texts : iterable of str, or of lists of str
            They are read once. A single string is one text.
        """
        counts: Counter[str] = Counter()
        for text in [texts] if isinstance(texts, str) else texts:
            counts.update(self.split(text))
        for word in self.specials:
            counts.pop(word, None)
        words = [word for word, count in counts.items() if count >= self.min_count]
        words.sort(key=lambda word: (-counts[word], word))
        if self.max_size is not None:
            del words[self.max_size - len(self.specials) :]
        self._set_words(words)
        return self

    def encode(self, texts: Any, *, bos: bool = False, eos: bool = False) -> Any:
        """Return the numbers of the words of a text, or of several.

        Parameters
        ----------
        texts : str, or iterable of str or of lists of str
        bos, eos : bool
            Whether to put the number of the beginning in front, and that of the end behind.

        Returns
        -------
        ndarray of int64, shape (T,), or a list of these
            A list if `texts` are several: for `pad_sequences` or `Buckets`.
        """
        if not isinstance(texts, str):
            return [self._encoded(text, bos, eos) for text in texts]
        return self._encoded(texts, bos, eos)

    def _encoded(self, text: str | Iterable[str], bos: bool, eos: bool) -> NDArray:
        if len(self.words) == len(self.specials):
            raise RuntimeError("A vocabulary must be fitted before it encodes. Call fit() first.")
        numbers = [self._numbers.get(word, UNK) for word in self.split(text)]
        return np.array([BOS] * bos + numbers + [EOS] * eos, np.int64)

    def decode(self, numbers: Any, *, skip_special: bool = True) -> Any:
        """Return the text of numbers: words with spaces between them, or characters.

        Parameters
        ----------
        numbers : array_like of int, shape (T,) or (N, T), or list of such of shape (T_i,)
        skip_special : bool
            Whether to leave out padding, beginning and end, with all that follows an end.

        Returns
        -------
        str, or list of str
        """
        if isinstance(numbers, np.ndarray):
            several = numbers.ndim > 1
        else:
            numbers = list(numbers)
            several = any(np.ndim(row) for row in numbers)
        if several:
            return [self.decode(row, skip_special=skip_special) for row in numbers]
        row = label_array(numbers, len(self), "numbers").tolist() if len(numbers) else []
        if skip_special:
            row = row[: row.index(EOS)] if EOS in row else row
            row = [number for number in row if number not in (PAD, BOS)]
        return ("" if self.level == "char" else " ").join(self.words[number] for number in row)

    def save(self, path: StrPath) -> None:
        """Write the vocabulary to a JSON file.

        Parameters
        ----------
        path : str or path
        """
        content = {
            "npdl.vocabulary": _FORMAT,
            "level": self.level,
            "min_count": self.min_count,
            "max_size": self.max_size,
            "lower": self.lower,
            "specials": self.specials[len(SPECIALS) :],
            "words": self.words[len(self.specials) :],
        }
        data = json.dumps(content, ensure_ascii=False, indent=0).encode("utf-8", "surrogatepass")
        with atomic_write(path) as file:
            file.write(data)

    @classmethod
    def load(cls, path: StrPath) -> Vocabulary:
        """Return the vocabulary that `save` wrote.

        Parameters
        ----------
        path : str or path

        Raises
        ------
        ValueError
            If the file is no vocabulary; the message names it.
        """
        with open(path, "rb") as file:
            data = file.read()
        try:
            content = json.loads(data.decode("utf-8", "surrogatepass"))
            if not isinstance(content, dict) or "npdl.vocabulary" not in content:
                raise ValueError("there is no 'npdl.vocabulary' in it")
            if content.pop("npdl.vocabulary") != _FORMAT:
                raise ValueError("it is from a later version of npdl")
            words = _as_strings("words", content.pop("words"))
            vocabulary = cls(content.pop("level"), **content)
            vocabulary._set_words(words)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{path} is not a vocabulary of npdl: {error}") from error
        return vocabulary

    def __repr__(self) -> str:
        return f"Vocabulary({self.level!r}, {len(self)} entries)"


def _as_strings(name: str, values: Any) -> list[str]:
    """A list of strings; a single string is rejected."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(error_message(f"`{name}` must be a list of strings", **{name: values}))
    words = list(values)
    for word in words:
        if not isinstance(word, str):
            raise TypeError(error_message(f"`{name}` must be strings", word=word))
    return words
