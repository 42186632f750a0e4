"""npdl.data.Vocabulary and npdl.data.windows."""

import json

import numpy as np
import pytest

from npdl.data import Batches, Vocabulary, pad_sequences, windows
from npdl.layers import Dense, SimpleRNN
from npdl.model import Model

TEXTS = ["The cat sat on the mat.", "The dog didn't sit.", "A cat, a dog!"]


def test_the_most_frequent_words_come_first_and_ties_by_the_alphabet():
    vocabulary = Vocabulary().fit(TEXTS)
    wanted = ["<pad>", "<unk>", "<bos>", "<eos>", "the", ".", "a", "cat", "dog", "!", ","]
    assert [*vocabulary] == [*wanted, "didn't", "mat", "on", "sat", "sit"]
    assert Vocabulary().fit(TEXTS[::-1]).words == vocabulary.words
    assert len(vocabulary) == 16 and "cat" in vocabulary and "bird" not in vocabulary
    assert vocabulary["cat"] == 7 and vocabulary[7] == "cat" and vocabulary["bird"] == 1


def test_words_go_there_and_back():
    vocabulary = Vocabulary().fit(iter(TEXTS))
    numbers = vocabulary.encode("A BIRD sat", bos=True, eos=True)
    assert numbers.dtype == np.int64 and numbers.tolist() == [2, 6, 1, 14, 3]
    assert vocabulary.decode(numbers) == "a <unk> sat"
    assert vocabulary.decode([0, 4, 7, 3, 14, 14]) == "the cat"
    assert vocabulary.decode([4, 3, 0], skip_special=False) == "the <eos> <pad>"
    several = vocabulary.encode(["the cat", ["The", "cat"], ""])
    assert [row.tolist() for row in several] == [[4, 7], [1, 7], []]
    assert vocabulary.decode(several) == ["the cat", "<unk> cat", ""]
    assert vocabulary.decode(pad_sequences(several)) == ["the cat", "<unk> cat", ""]
    assert vocabulary.decode(np.array([])) == vocabulary.decode([]) == ""


def test_characters_go_there_and_back():
    text = "Ab ba\n\té🙂"
    vocabulary = Vocabulary("char").fit(text)
    assert len(vocabulary) == 4 + len(set(text))
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert Vocabulary("char", lower=True).fit(text).decode([4]) in "ab"
    assert vocabulary.encode("z").tolist() == [1]


def test_rare_words_are_left_out():
    counts = [["a"] * 5 + ["b"] * 3 + ["c"] * 3 + ["d"]]
    assert Vocabulary(min_count=3).fit(counts).words[4:] == ("a", "b", "c")
    assert Vocabulary(max_size=6).fit(counts).words[4:] == ("a", "b")
    assert Vocabulary(max_size=4).fit(counts).words[4:] == ()
    special = Vocabulary(max_size=6, specials=["<sep>"]).fit([["<sep>", "a", "<pad>", "b"]])
    assert special.words[4:] == ("<sep>", "a") and special.encode([["<sep>"]])[0].tolist() == [4]


@pytest.mark.parametrize(
    "vocabulary",
    [
        Vocabulary(min_count=2, max_size=9, specials=["<sep>"]),
        Vocabulary("char", lower=True),
        Vocabulary(lower=False),
    ],
    ids=repr,
)
def test_a_file_holds_all_of_it(tmp_path, vocabulary):
    vocabulary.fit([*TEXTS, "\ud800 \u2028 é\n"])
    vocabulary.save(tmp_path / "words.json")
    again = Vocabulary.load(tmp_path / "words.json")
    assert vars(again) == vars(vocabulary)
    again.fit(TEXTS)
    assert again.words == vocabulary.fit(TEXTS).words


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        "{",
        "[" * 100_000,
        json.dumps({"npdl.vocabulary": 2, "level": "word", "words": []}),
        json.dumps({"npdl.vocabulary": 1, "level": "word"}),
        json.dumps({"npdl.vocabulary": 1, "level": "word", "words": "abc"}),
        json.dumps({"npdl.vocabulary": 1, "level": "word", "words": ["a", 1]}),
        json.dumps({"npdl.vocabulary": 1, "level": "word", "words": ["a", "a"]}),
        json.dumps({"npdl.vocabulary": 1, "level": "word", "words": [], "self": 1}),
        json.dumps({"npdl.vocabulary": 1, "level": "line", "words": []}),
    ],
)
def test_another_file_is_refused_by_its_name(tmp_path, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(ValueError, match=r"other.json is not a vocabulary"):
        Vocabulary.load(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("call", "kind", "error"),
    [
        (lambda: Vocabulary("line"), ValueError, "`level` must be one of 'word', 'char'"),
        (lambda: Vocabulary(min_count=0), ValueError, "`min_count` must"),
        (lambda: Vocabulary(max_size=3), ValueError, "`max_size` must"),
        (lambda: Vocabulary(specials="<a>"), TypeError, "`specials` must be a list of strings"),
        (lambda: Vocabulary(specials=["<eos>"]), ValueError, "only once.*'<eos>'"),
        (lambda: Vocabulary().encode("a"), RuntimeError, "must be fitted"),
        (lambda: Vocabulary().fit([["a", 3]]), TypeError, "`text` must be strings.*3"),
        (lambda: Vocabulary().fit("a").decode([5]), ValueError, r"`numbers` must lie in \[0, 5\)"),
        (lambda: Vocabulary().fit("a").decode([-1]), ValueError, "`numbers` must lie in"),
    ],
)
def test_a_vocabulary_says_what_is_wrong(call, kind, error):
    with pytest.raises(kind, match=error):
        call()


# ---------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("step", [1, 2, 3, 50])
@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_windows_and_what_lies_ahead(rng, length, step, ahead):
    series, targets = rng.random((23, 2)), np.arange(23)
    x, y = windows(series, targets, length, step, ahead)
    starts = [s for s in range(0, 23, step) if s + length - 1 + ahead < 23]
    assert x.shape == (len(starts), length, 2) and len(y) == len(starts)
    for i, start in enumerate(starts):
        np.testing.assert_array_equal(x[i], series[start : start + length])
        assert y[i] == start + length - 1 + ahead
    alone = windows(series, None, length, step)
    assert len(alone) == len([s for s in range(0, 23, step) if s + length <= 23])


def test_windows_are_read_only_views():
    series = np.arange(10.0)
    x, y = windows(series, series, length=3)
    assert x.shape == (7, 3) and np.shares_memory(x, series) and np.shares_memory(y, series)
    for view in (x, y):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1
    series[0] = 5  # itself can be written to, as before
    assert x[0, 0] == 5


def test_a_model_is_trained_on_windows():
    series = np.sin(np.arange(60, dtype=np.float32))[:, None]
    x, y = windows(series, series, length=5)
    model = Model([SimpleRNN(n_out=6, input_shape=(5, 1)), Dense(1, activation="linear")])
    model.compile("mse", "adam")
    model.fit(x, y, epochs=1, verbose=0)
    assert [len(b) for b, _ in Batches(x, y, batch_size=40)] == [40, 15]
    model.fit(Batches(x, y), epochs=1, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((np.zeros(5), None, 6), r"`series` must have at least 6 steps.*\(5,\)"),
        ((np.zeros(5), np.zeros(5), 5), "`series` must have at least 6 steps"),
        ((np.zeros(5), np.zeros(4), 2), r"`targets` must have one for each step.*\(4,\)"),
        ((np.zeros(5), None, 0), "`length` must"),
        ((np.zeros(5), None, 2, 0), "`step` must"),
        ((np.zeros(5), np.zeros(5), 2, 1, -1), "`ahead` must"),
        ((3.0, None, 1), "`series` must have shape"),
    ],
)
def test_windows_say_what_is_wrong(arguments, error):
    with pytest.raises(ValueError, match=error):
        windows(*arguments)
