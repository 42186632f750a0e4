"""Texts as lists of words, and back."""

import difflib

from npdl.data import Vocabulary

#: The most words of a question that are read, and of an answer that are written.
LONGEST_QUESTION = 20
LONGEST_ANSWER = 24

_LONG_FORMS = {
    **{"can't": "can not", "cannot": "can not", "won't": "will not", "let's": "let us"},
    **{"whats": "what is", "dont": "do not", "im": "i am", "u": "you"},  # codespell:ignore
    **{
        f"{word}'s": f"{word} is" for word in "what who where how when it that there he she".split()
    },
}
_ENDINGS = {
    "n't": " not",
    "'m": " am",
    "'re": " are",
    "'ve": " have",
    "'ll": " will",
    "'d": " would",
}
_CLOSING = (".", ",", "!", "?", ";", ":", ")", "%", "+")
_STRAIGHT = str.maketrans("’‘“”", "''\"\"")


def question_words(text: str) -> list[str]:
    """Return the words of a question: lower-case, short forms written out, no full stop."""
    words = []
    for word in Vocabulary().split(text.translate(_STRAIGHT)):
        long = _LONG_FORMS.get(word, word)
        for ending, expanded in _ENDINGS.items():
            if word == long and word.endswith(ending):
                long = word.removesuffix(ending) + expanded
        words += long.split()
    return [word for word in words if any(c.isalnum() for c in word)]


def known_words(words: list[str], vocabulary: Vocabulary) -> list[str]:
    """Return the words with each misspelt one replaced by the known word that it resembles."""
    found = []
    for word in words:
        if word not in vocabulary and 3 < len(word) < 20 and word.isalpha():
            near = difflib.get_close_matches(word, vocabulary.words[4:], n=1, cutoff=0.8)
            word = near[0] if near else word
        found.append(word)
    return found


def answer_words(text: str) -> list[str]:
    """Return the words of an answer, as they are written; punctuation marks are words too."""
    return Vocabulary(lower=False).split(text.translate(_STRAIGHT))


def written(words: list[str]) -> str:
    """Return the words of an answer as one text, with spaces where English has them."""
    return "".join(pieces(words))


def pieces(words: list[str]) -> list[str]:
    """Return the words of an answer, each with the space that goes in front of it."""
    found: list[str] = []
    opened: set[str] = set()  # quotation marks
    glued = True
    for word in words:
        joins = word in _CLOSING or word in opened or (word in ("-", "/") and found)
        found.append(word if glued or joins else f" {word}")
        glued = word in ("(", "-", "/")
        if word in ('"', "'"):
            glued = word not in opened
            opened ^= {word}
    return found
