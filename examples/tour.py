"""Everything around `fit`, on real pictures, cell by cell (# %%).

    python examples/tour.py
    python examples/tour.py --data fashion --path /usr/share/datasets/fashion-mnist

Without --path, Fashion-MNIST is downloaded at the first call. docs/tour.md shows the output.
"""

import argparse
from pathlib import Path

import numpy as np

import npdl
from npdl import callbacks, data, datasets, metrics, schedules, viz
from npdl.layers import GRU, Convolution, Dense, Dropout, Flatten, MaxPooling, Softmax

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", choices=("digits", "fashion"), default="digits")
parser.add_argument("--path", help="folder that holds the files of Fashion-MNIST")
parser.add_argument("--out", type=Path, default=Path("tour"), help="default: %(default)s")
parser.add_argument("--epochs", type=int, default=15)
options = parser.parse_args()

OUT = options.out
OUT.mkdir(parents=True, exist_ok=True)
npdl.utils.set_seed(1)


def show(title):
    print(f"\n--- {title}")


# %% The data: a part for training, one to watch it by, one for the test at the end
show("data")
if options.data == "digits":
    (x, y), (x_test, y_test) = datasets.load_digits()
    classes = tuple("0123456789")
    changes = data.Augment(data.Shift(1), data.Noise(0.05, 0, 1))
else:
    (x, y), (x_test, y_test) = datasets.load_fashion_mnist(options.path)
    classes = datasets.FASHION_CLASSES
    changes = data.Augment(data.Shift(2), data.Flip())
x, x_val, y, y_val = data.train_test_split(x, y, test_size=0.1, stratify=y, seed=1)
scale = data.Standardizer(axis=(0, 2, 3)).fit(x)
print(f"{len(x)} pictures to learn from, {len(x_val)} to watch, {len(x_test)} for the test")
print(f"mean {scale.mean.item():.3f} and deviation {scale.std.item():.3f} become 0 and 1")

# Pictures are changed and scaled by a thread of its own, while the batch before them trains.
batches = data.Batches(x, y, batch_size=64, transform=lambda x, rng: scale(changes(x, rng)))
batches = data.Background(batches)

# %% The model: L2 on the dense layer, and what it looks like
show("model")
model = npdl.Model()
model.add(Convolution(16, 3, input_shape=x.shape[1:], padding="same"))
model.add(MaxPooling(2))
model.add(Convolution(32, 3, padding="same"))
if x.shape[2] > 8:
    model.add(MaxPooling(2))
model.add(Flatten())
model.add(Dense(64, activation="relu", regularizer=npdl.regularizers.L2(1e-4)))
model.add(Dropout(0.3))
model.add(Softmax(10))

# %% The rate rises and falls once; the decay of the weights has nothing to do with it
steps = options.epochs * len(batches)
model.compile(
    loss=npdl.objectives.SCCE(label_smoothing=0.05),
    optimizer=npdl.optimizers.AdamW(lr=schedules.OneCycle(0.005, steps), global_clipnorm=1.0),
    metrics=["accuracy", metrics.TopKAccuracy(2, name="top_2")],
)
model.summary()
npdl.plot_model(model, OUT / "model.svg")

# %% Training, with all that watches over it
show("training")
history = model.fit(
    batches,
    epochs=options.epochs,
    validation_data=(scale(x_val), y_val),
    verbose=2,
    callbacks=[
        callbacks.EarlyStopping(patience=5, restore_best_weights=True),
        callbacks.ModelCheckpoint(OUT / "best.safetensors", save_best_only=True),
        callbacks.BackupAndRestore(OUT / "backup"),
        callbacks.CSVLogger(OUT / "log.csv"),
        callbacks.TerminateOnNaN(),
    ],
)

# %% The test: the best model, from its file
show("test")
model = npdl.load_model(OUT / "best.safetensors")
figures = model.evaluate(scale(x_test), y_test, return_dict=True)
print("  ".join(f"{name} {value:.4f}" for name, value in figures.items()))
outputs = model.predict(scale(x_test))
print(f"F1 {metrics.F1Score()(y_test, outputs):.4f}, the mean over the classes")
confusion = metrics.ConfusionMatrix()(y_test, outputs).astype(int)
mistakes = confusion - np.diag(np.diag(confusion))
i, j = np.unravel_index(mistakes.argmax(), mistakes.shape)
print(f"most often, {classes[i]} is taken for {classes[j]}: {mistakes[i, j]} times")

# %% The same pictures as sequences of columns: those without ink on the left and on the right are
# left out, so that they differ in length; a batch holds sequences of about the same length
show("sequences")


def inked_columns(images):
    """Each image's columns, from the first to the last that has any ink."""
    inked = images.max(axis=(1, 2)) > 0
    first, last = inked.argmax(axis=1), images.shape[3] - inked[:, ::-1].argmax(axis=1)
    return [image[0, :, a:b].T for image, a, b in zip(images, first, last)]


some = slice(5000)
buckets = data.Buckets(inked_columns(x[some]), y[some], batch_size=32, masks=True)
masks = [mask for (_, mask), _ in buckets]
lengths, padding = [mask.shape[1] for mask in masks], 1 - np.mean([mask.mean() for mask in masks])
print(f"{len(masks)} batches of {min(lengths)} to {max(lengths)} steps, {padding:.1%} padding")
reader = npdl.Model([GRU(n_out=48, n_in=x.shape[2]), Softmax(10)])
reader.compile("scce", npdl.optimizers.Adam(lr=0.005))
reader.fit(buckets, epochs=min(options.epochs, 10), verbose=2)
padded = data.pad_sequences(inked_columns(x_test), return_mask=True)
print(
    f"{reader.evaluate(padded, y_test).accuracy:.2%} of the test pictures are read column by column"
)

# %% Pictures of it all
show("pictures")
try:
    import matplotlib  # noqa: F401
except ImportError:
    print("plots skipped: matplotlib is not installed (pip install npdl[plot])")
else:
    history.plot().savefig(OUT / "history.png")
    viz.plot_confusion(confusion, classes).savefig(OUT / "confusion.png")
    viz.plot_filters(model.layers[0]).savefig(OUT / "filters.png")
    viz.plot_activations(model, scale(x_test[:1])).savefig(OUT / "activations.png")

# %% What is there now; the command line can read it too
np.save(OUT / "pictures.npy", scale(x_test[:5]))
print("in", OUT, "are", *sorted(path.name for path in OUT.iterdir()))
print(f"try: python -m npdl summary {OUT}/best.safetensors")
print(f"     python -m npdl predict {OUT}/best.safetensors {OUT}/pictures.npy --classes")
print(f"     (they are {', '.join(map(str, y_test[:5]))})")
