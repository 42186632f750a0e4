"""A language model of characters that reads Jane Austen's "Emma", with an RNN or an LSTM.

    python examples/emma.py --model rnn
    python examples/emma.py --model lstm

Data: the novel, 883,027 characters, from Debian's package r-cran-janeaustenr (MIT licence; the
novel is in the public domain). The last tenth is for the test.
To beat: 1.908 bits per character, a 5-gram model (Witten-Bell). The LSTM does; the
simple RNN comes near it.
"""

import argparse
import struct
import zlib

import _data
import numpy as np

import npdl
from npdl.layers import LSTM, Dropout, Embedding, SimpleRNN, Softmax

DEB = "r-cran-janeaustenr_1.0.0-1_all.deb"
SHA256 = "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95"
TABLE = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
MODELS = {"rnn": SimpleRNN, "lstm": LSTM}


def strings(block):
    """The strings of a character vector as R serializes it: a mark, a length, bytes."""
    found, place = [], 0
    while (place := block.find(b"\0\x04\0\x09", place)) > 0:
        (size,) = struct.unpack(">i", block[place + 4 : place + 8])
        found.append(block[place + 8 : place + 8 + size].decode())
        place += 8 + size
    return found


def load():
    """Return the text of the novel."""
    data, place, books = _data.from_debian(DEB, SHA256)[TABLE], 0, []
    while place < len(data):  # blocks: the length when unpacked, then zlib
        unpacker = zlib.decompressobj()
        books.append("\n".join(strings(unpacker.decompress(data[place + 4 :]))))
        place = len(data) - len(unpacker.unused_data)
    return next(book for book in books if book.startswith("EMMA"))


def bits(model, codes, length=256):
    """Bits per character, each judged with at least half of `length` characters before it."""
    half = length // 2
    view = npdl.data.windows(codes, None, length + 1, step=half)
    x, y = view[:, :-1], view[:, 1:]
    told = np.take_along_axis(model.predict(x), y[..., None], axis=-1)[:, half:]
    return float(-np.log2(told).mean())


def write(model, characters, start, count, temperature, rng):
    """Return `start` and `count` characters after it, drawn one by one."""
    embedding, recurrent, _, softmax = model.layers
    text, state = list(start), None
    for i in range(len(start) + count - 1):
        code = [characters.index(text[i])]
        read, state = recurrent.step(embedding.forward(np.array(code), train=False), state)
        if i >= len(start) - 1:
            weights = softmax.forward(read, train=False)[0].astype(float) ** (1 / temperature)
            text.append(characters[rng.choice(len(characters), p=weights / weights.sum())])
    return "".join(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="lstm")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit", type=int, help="learn from so many characters only")
    parser.add_argument("--units", type=int, default=192)
    parser.add_argument("--temperature", type=float, default=0.6)
    options = parser.parse_args()

    npdl.utils.set_seed(1)
    text = load()
    characters = sorted(set(text))
    codes = np.array([characters.index(c) for c in text])
    end = int(0.9 * len(codes))
    print(f"{len(codes):,} characters, {len(characters)} different ones")
    windows = npdl.data.windows(codes[:end][: options.limit], None, 129, step=64)
    x, y = windows[:, :-1], windows[:, 1:]  # at each character the next one is told

    model = npdl.Model([Embedding(len(characters), 32)])
    model.add(MODELS[options.model](options.units, return_sequence=True))
    model.add(Dropout(0.1))
    model.add(Softmax(len(characters)))
    rate = npdl.schedules.OneCycle(0.005, options.epochs * -(-len(x) // 32))
    model.compile("scce", npdl.optimizers.Adam(lr=rate, global_clipnorm=1), metrics=[])
    model.fit(x, y, epochs=options.epochs, batch_size=32, verbose=2)

    rng = np.random.default_rng(1)
    print("\n" + write(model, characters, "Emma ", 400, options.temperature, rng) + "\n")
    figure = bits(model, codes[end:])
    print(f"reached: {figure:.3f} bits per character of the last tenth (to beat: 1.908)")


if __name__ == "__main__":
    main()
