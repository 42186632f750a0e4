"""Learn to write, a character at a time, with a simple recurrent network, a GRU or an LSTM.

    python examples/characters.py --model rnn
    python examples/characters.py --model lstm --text some-book.txt

The text that comes with it is the beginning of "Alice's Adventures in Wonderland" (Lewis Carroll,
1865; public domain). It is so short that the network memorizes much of it.
"""

import argparse
from pathlib import Path

import numpy as np

import npdl
from npdl.layers import GRU, LSTM, Embedding, SimpleRNN, Softmax

MODELS = {"rnn": SimpleRNN, "gru": GRU, "lstm": LSTM}
LENGTH = 32


def write(model, characters, start, count, temperature, rng):
    """Return `count` characters that the model puts after `start`."""
    codes = [characters.index(c) for c in start]
    for _ in range(count):
        probabilities = model.predict(np.array([codes[-LENGTH:]]))[0, -1].astype(float)
        weights = probabilities ** (1 / temperature)
        codes.append(rng.choice(len(characters), p=weights / weights.sum()))
    return "".join(characters[code] for code in codes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="lstm")
    parser.add_argument("--text", type=Path, default=Path(__file__).with_name("alice.txt"))
    parser.add_argument("--units", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3, help="samples are written after each")
    parser.add_argument("--temperature", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    npdl.utils.set_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    text = options.text.read_text(encoding="utf-8")
    characters = sorted(set(text))
    codes = np.array([characters.index(c) for c in text])
    # Each window of LENGTH + 1 characters: the first LENGTH are read, and at each the next is told.
    windows = np.lib.stride_tricks.sliding_window_view(codes, LENGTH + 1)[::3]
    x, y = windows[:, :-1], windows[:, 1:]

    model = npdl.Model()
    model.add(Embedding(input_size=len(characters), n_out=24))
    model.add(MODELS[options.model](n_out=options.units, return_sequence=True))
    model.add(Softmax(len(characters)))
    model.compile(loss="scce", optimizer=npdl.optimizers.Adam(lr=0.005, clip=0.1))
    model.summary()
    for _ in range(options.rounds):
        model.fit(x, y, epochs=max(1, options.epochs // options.rounds), batch_size=32)
        print("\n" + write(model, characters, "Alice ", 200, options.temperature, rng) + "\n")


if __name__ == "__main__":
    main()
