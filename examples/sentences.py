"""Tell praise from complaint in short sentences, with a convolution over words or an LSTM.

    python examples/sentences.py --model cnn
    python examples/sentences.py --model lstm

The sentences are put together at random: "the soup was not really bad, and the waiter was kind".
Single words do not decide, since "not" turns the meaning of what follows.
"""

import argparse

import numpy as np

import npdl
from npdl.layers import LSTM, Convolution, DimShuffle, Embedding, Flatten, MaxPooling, Softmax

THINGS = "soup bread fish cake coffee wine waiter music table garden terrace cook".split()
PRAISE = "good kind lovely fine splendid pleasant charming delightful".split()
BLAME = "bad rude awful dreadful poor dull horrid unpleasant".split()
ADVERBS = ["", "", "", "really", "quite", "always"]
LENGTH, WIDTH = 14, 16

MODELS = {
    "cnn": lambda words: [
        Embedding(input_size=words, n_out=WIDTH, nb_seq=LENGTH),
        DimShuffle(),  # (N, T, D) -> (N, 1, T, D)
        Convolution(32, (3, WIDTH)),
        MaxPooling((LENGTH - 2, 1)),
        Flatten(),
        Softmax(2),
    ],
    "lstm": lambda words: [
        Embedding(input_size=words, n_out=WIDTH, nb_seq=LENGTH),
        LSTM(n_out=32),
        Softmax(2),
    ],
}


def make_sentence(rng):
    """Return a sentence and whether it praises (1) or complains (0)."""
    praises = rng.random() < 0.5
    clauses = []
    for thing in rng.choice(THINGS, size=rng.integers(1, 3), replace=False):
        negated = rng.random() < 0.5
        adjective = rng.choice(PRAISE if praises != negated else BLAME)
        words = ["the", thing, "was", "not" if negated else "", rng.choice(ADVERBS), adjective]
        clauses.append(" ".join(word for word in words if word))
    return ", and ".join(clauses), int(praises)


def encode(sentences, vocabulary):
    """Number the words; sentences shorter than LENGTH begin with zeros."""
    codes = np.zeros((len(sentences), LENGTH), int)
    for row, sentence in zip(codes, sentences):
        words = [vocabulary[word] for word in sentence.replace(",", " ,").split()]
        row[LENGTH - len(words) :] = words
    return codes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="cnn")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    npdl.utils.set_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    sentences, labels = zip(*(make_sentence(rng) for _ in range(2000)))
    known = sorted({word for s in sentences for word in s.replace(",", " ,").split()})
    vocabulary = {word: i for i, word in enumerate(known, 1)}
    x, y = encode(sentences, vocabulary), np.array(labels)

    model = npdl.Model(MODELS[options.model](len(vocabulary) + 1))
    model.compile(loss="scce", optimizer=npdl.optimizers.Adam(lr=0.005, clip=1.0))
    model.summary()
    model.fit(x[:1600], y[:1600], epochs=options.epochs, validation_data=(x[1600:], y[1600:]))

    print()
    for sentence, output in zip(sentences[1600:1608], model.predict(x[1600:1608])):
        print(f"{('complaint', 'praise')[output.argmax()]:<10}{output.max():>5.0%}  {sentence}")


if __name__ == "__main__":
    main()
