"""Clothes in ten classes, with a convolutional network or a small residual network.

    python examples/fashion.py --model cnn
    python examples/fashion.py --model resnet

Data: Fashion-MNIST (Xiao, Rasul, Vollgraf 2017; MIT licence), 60,000 pictures to learn from and
10,000 for the test, from Debian's package dataset-fashion-mnist.
To beat: 92.5 % of the test pictures; a random forest has 87.2 %.
"""

import argparse

import _data
import numpy as np

import npdl
from npdl.data import Augment, Background, Batches, Flip, Shift

DEB = "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb"
SHA256 = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"

MODELS = {
    "cnn": lambda: npdl.models.vgg((1, 28, 28), 10, widths=(32, 64)),
    "resnet": lambda: npdl.models.resnet((1, 28, 28), 10, widths=(12, 24, 48)),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="cnn")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--limit", type=int, help="learn from so many pictures only")
    parser.add_argument("--picture", help="write the most certain mistakes to this file")
    options = parser.parse_args()

    npdl.utils.set_seed(1)
    folder = _data.debian_folder(DEB, SHA256, "usr/share/datasets/fashion-mnist")
    (x, y), (x_test, y_test) = npdl.datasets.load_fashion_mnist(folder)
    x, y = x[: options.limit], y[: options.limit]

    # Each picture is shifted and mirrored at random, by a thread that works ahead.
    batches = Background(Batches(x, y, batch_size=64, transform=Augment(Shift(2), Flip())))
    rate = npdl.schedules.OneCycle(0.004, options.epochs * len(batches))
    model = MODELS[options.model]()
    model.summary()
    model.compile("scce", npdl.optimizers.AdamW(lr=rate, weight_decay=1e-4))
    model.fit(batches, epochs=options.epochs, verbose=2)

    # The mean of the predictions for a picture and for its mirror image.
    outputs = (model.predict(x_test) + model.predict(x_test[..., ::-1].copy())) / 2
    right = outputs.argmax(axis=1) == y_test
    print(f"\nmirror images left out: {model.evaluate(x_test, y_test).accuracy:.2%}")
    print(f"reached: {right.mean():.2%} of the test pictures (to beat: 92.5 %)")
    if options.picture:
        draw(options.picture, x_test, y_test, outputs)


def draw(path, x, y, outputs):
    from matplotlib.figure import Figure

    names = npdl.datasets.FASHION_CLASSES
    guesses = outputs.argmax(axis=1)
    wrong = np.flatnonzero(guesses != y)
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    worst = wrong[np.argsort(-outputs[wrong].max(axis=1))]
    for axes, i in zip(figure.subplots(2, 6).flat, worst):
        axes.imshow(x[i, 0], cmap="gray_r")
        axes.set_title(f"{names[y[i]]}\ntaken for\n{names[guesses[i]]}", fontsize=9)
        axes.set_axis_off()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
