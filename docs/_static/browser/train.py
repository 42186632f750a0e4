"""A CNN that learns the digits: what the page "Train in your browser" runs in Pyodide."""

import json
import time

import numpy as np

import npdl
from npdl.layers import Convolution, Dense, Flatten, MaxPooling, Softmax

npdl.utils.set_seed(1)
(x_train, y_train), (x_test, y_test) = npdl.datasets.load_digits()

model = npdl.Model(
    [
        Convolution(16, 3, padding="same"),
        Convolution(32, 3),
        MaxPooling(2),
        Flatten(),
        Dense(64, activation="relu"),
        Softmax(10),
    ]
)
model.compile(loss="scce", optimizer=npdl.optimizers.Adam(lr=0.002), metrics=["accuracy"])


def about():
    """What it runs on."""
    return f"npdl {npdl.__version__}, NumPy {np.__version__}, {len(x_train)} digits to learn from."


def train(epochs, tell):
    """Train for some epochs; tell(figures) is called after each, with JSON."""
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        history = model.fit(x_train, y_train, epochs=1, batch_size=64, verbose=0).history
        seconds = time.perf_counter() - start
        test = model.evaluate(x_test, y_test, verbose=0)
        figures = {"epoch": epoch, "loss": history["loss"][-1], "seconds": seconds}
        figures |= {"accuracy": history["acc"][-1], "test": test.accuracy}
        tell(json.dumps(figures))


def read(pixels):
    """The probabilities of the ten digits, for 64 pixels from 0 to 1; both JSON."""
    image = np.array(json.loads(pixels), "float32").reshape(1, 1, 8, 8)
    return json.dumps(model.predict(image)[0].tolist())


def sample():
    """The pixels of some test digit, as JSON."""
    return json.dumps(x_test[np.random.default_rng().integers(len(x_test))].ravel().tolist())
