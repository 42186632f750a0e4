"""Read handwritten digits with a perceptron or a convolutional network.

python examples/digits.py --model mlp
python examples/digits.py --model cnn
"""

import argparse

import numpy as np

import npdl
from npdl.layers import Convolution, Dense, Dropout, Flatten, MeanPooling, Softmax

MODELS = {
    "mlp": lambda: [Flatten(), Dense(128, activation="relu"), Dropout(0.2), Softmax(10)],
    "cnn": lambda: [
        Convolution(16, 3, input_shape=(1, 8, 8), padding="same"),
        MeanPooling(2),
        Convolution(32, 3, padding="same"),
        Flatten(),
        Softmax(10),
    ],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="mlp")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    npdl.utils.set_seed(options.seed)
    (x_train, y_train), (x_test, y_test) = npdl.datasets.load_digits()
    model = npdl.Model(MODELS[options.model]())
    model.compile(loss="scce", optimizer=npdl.optimizers.Adam(lr=0.003))
    model.fit(x_train, y_train, epochs=options.epochs, validation_split=0.1)

    guesses = model.predict(x_test).argmax(axis=1)
    print(f"\n{np.mean(guesses == y_test):.2%} of {len(y_test)} test digits are read right")
    print("\nmistakes (row: the digit, column: what it was taken for)")
    table = np.zeros((10, 10), int)
    np.add.at(table, (y_test, guesses), 1)
    print("   " + "".join(f"{k:>4}" for k in range(10)))
    for k, row in enumerate(table):
        print(f"{k:>3}" + "".join(f"{n or '.':>4}" for n in row))


if __name__ == "__main__":
    main()
