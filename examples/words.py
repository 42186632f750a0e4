"""Reading: a convolutional network and an LSTM with CTC read words, letter by letter.

    python examples/words.py

The network sees a picture of a whole word, without positions of the letters.
Data: words of Python's own documentation, drawn with Pillow in fonts that come with matplotlib,
slanted, thinned and with noise. The test has words that were not learned.
To beat: 90 % of the words right in every letter; a goal set beforehand, because there is
no other program to compare with.
"""

import argparse
import re
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

import npdl
from npdl.data import ctc_decode
from npdl.layers import (
    LSTM,
    BatchNormal,
    Bidirectional,
    Convolution,
    MaxPooling,
    Permute,
    Reshape,
    Softmax,
)

HEIGHT, WIDTH = 28, 128
LETTERS = "abcdefghijklmnopqrstuvwxyz"
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Italic"),
    *("DejaVuSansMono", "STIXGeneral", "STIXGeneralItalic", "cmr10", "cmtt10"),
)


def draw_word(word, fonts, rng):
    """Return a picture (HEIGHT, WIDTH) of a word, 0 for paper and about 1 for ink."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (WIDTH, HEIGHT))
    font = fonts[rng.integers(len(fonts))]
    place = rng.integers(2, 8), rng.integers(-1, 4)
    ImageDraw.Draw(image).text(place, word, 255, font)
    slant = rng.uniform(-0.2, 0.2)
    image = image.transform(
        image.size,
        Image.Transform.AFFINE,
        (1, slant, -slant * HEIGHT / 2, 0, 1, 0),
        Image.Resampling.BILINEAR,
    )
    ink = np.asarray(image) / 255 * rng.uniform(0.5, 1)
    return ink + rng.normal(0, 0.12, ink.shape)


def make(words, rng):
    from matplotlib import get_data_path
    from PIL import ImageFont

    folder = Path(get_data_path(), "fonts", "ttf")
    fonts = [
        ImageFont.truetype(folder / f"{name}.ttf", size) for name in FONTS for size in (17, 19)
    ]
    x = np.array([draw_word(word, fonts, rng) for word in words], np.float32)
    labels = [[LETTERS.index(letter) for letter in word] for word in words]
    return x[:, None], npdl.data.pad_sequences(labels, 10, padding="post", value=-1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--count", type=int, default=12_000, help="pictures to learn from")
    parser.add_argument("--test", type=int, default=500, help="words for the test")
    parser.add_argument("--picture", help="draw words and the words read into this file")
    options = parser.parse_args()

    npdl.utils.set_seed(1)
    rng = np.random.default_rng(1)
    text = " ".join(topics.values())
    words = rng.permutation(sorted(set(re.findall(r"\b[a-z]{3,10}\b", text))))
    known, unknown = words[options.test :], words[: options.test]
    x, y = make(rng.choice(known, options.count), rng)
    x_test, y_test = make(unknown, rng)
    print(f"{len(x)} pictures of {len(known)} words to learn from, {len(unknown)} other words")

    model = npdl.Model()
    for filters, pool in ((16, (2, 2)), (32, (2, 2)), (48, (2, 1))):
        model.add(Convolution(filters, 3, padding="same"))
        model.add(MaxPooling(pool))
        model.add(BatchNormal(axis=1))
    model.add(Permute((3, 1, 2)))  # to one step for every four columns of the picture
    model.add(Reshape((WIDTH // 4, -1)))
    model.add(Bidirectional(LSTM(64, return_sequence=True)))
    model.add(Softmax(len(LETTERS) + 1))  # the last class is CTC's blank
    rate = npdl.schedules.OneCycle(0.004, options.epochs * -(-len(x) // 32))
    optimizer = npdl.optimizers.Adam(lr=rate, global_clipnorm=1)
    model.compile(npdl.objectives.CTC(), optimizer, metrics=[])
    model.fit(x, y, epochs=options.epochs, batch_size=32, verbose=2)

    labels, _ = ctc_decode(model.predict(x_test))
    read = ["".join(LETTERS[k] for k in row if k >= 0) for row in labels]
    errors = npdl.data.edit_distance(labels, y_test).sum() / np.sum(y_test >= 0)
    right = np.mean([a == b for a, b in zip(read, unknown)])
    print(f"\nwrong letters: {errors:.2%}")
    print("wrong words:", *[f"{b} read as {a}," for a, b in zip(read, unknown) if a != b][:6])
    print(f"reached: {right:.1%} of {len(read)} words that it had not seen (to beat: 90 %)")
    if options.picture:
        draw(options.picture, x_test, read)


def draw(path, x, read):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, image, word in zip(figure.subplots(4, 4).flat, x[:, 0], read):
        axes.imshow(image, cmap="gray_r", vmin=-0.2, vmax=1)
        axes.set_title(word, fontsize=9)
        axes.set_axis_off()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
