"""Forecast of blood glucose, 30 minutes ahead, with two LSTM layers on windows of two hours.

    python examples/glucose.py

Data: readings of a glucose sensor every five minutes, half a year of one person, from the package
bokeh-sampledata on PyPI (BSD licence). The last fifth is for the test.
To beat, mean absolute error in mg/dL: 18.3, persistence (it stays as it is), and 15.2, ridge
regression on the same windows.
"""

import argparse
import csv
import gzip
import io
from datetime import datetime

import _data
import numpy as np

import npdl
from npdl.layers import LSTM, Linear

WHEEL = "bokeh_sampledata-2026.1-py3-none-any.whl"
SHA256 = "f40331a40ca30c64a1c1471835aad9006b61b0d9731a3f649ee8cbbf48d3822f"
LENGTH, AHEAD = 24, 6  # readings


def load():
    """Return minutes since the first reading, and readings in mg/dL."""
    packed = _data.from_pypi(WHEEL, SHA256).read("bokeh_sampledata/_data/CGM.csv.gz")
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(packed).decode())))
    times = [datetime.fromisoformat(row["datetime"]) for row in rows]
    minutes = np.array([(t - times[0]).total_seconds() / 60 for t in times])
    return minutes, np.array([float(row["glucose"]) for row in rows], np.float32)


def segments(minutes, values, count):
    """Windows and the values AHEAD of them, from each part of the series without a gap."""
    breaks = np.flatnonzero(np.diff(minutes) > 10) + 1
    parts = [p for p in np.split(values, breaks) if len(p) >= LENGTH + AHEAD]
    pairs = [npdl.data.windows(p[:, None], p, LENGTH, ahead=AHEAD) for p in parts]
    x, y = (np.concatenate(arrays) for arrays in zip(*pairs))
    return x[:count], y[:count]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--limit", type=int, help="learn from so many windows only")
    parser.add_argument("--picture", help="draw a day of forecasts into this file")
    options = parser.parse_args()

    npdl.utils.set_seed(1)
    minutes, values = load()
    end = int(0.8 * len(values))
    x, y = segments(minutes[:end], values[:end], options.limit)
    x_test, y_test = segments(minutes[end:], values[end:], None)
    print(f"{len(x)} windows to learn from, {len(x_test)} for the test")

    # What is learned is the change from the last reading, in units of 50 mg/dL.
    last, last_test = x[:, -1, 0], x_test[:, -1, 0]

    def scaled(x):
        return np.concatenate([(x - 150) / 50, np.diff(x, axis=1, prepend=x[:, :1]) / 10], axis=2)

    model = npdl.Model([LSTM(48, n_in=2, return_sequence=True), LSTM(48), Linear(1)])
    rate = npdl.schedules.OneCycle(0.005, options.epochs * -(-len(x) // 128))
    model.compile("mae", npdl.optimizers.Adam(lr=rate, global_clipnorm=1), metrics=[])
    model.fit(scaled(x), (y - last)[:, None] / 50, epochs=options.epochs, batch_size=128, verbose=2)

    forecast = last_test + 50 * model.predict(scaled(x_test))[:, 0]
    print(f"\npersistence: {np.abs(y_test - last_test).mean():.2f} mg/dL")
    print(f"ridge: {np.abs(y_test - ridge(x, y, x_test)).mean():.2f} mg/dL")
    error = np.abs(y_test - forecast).mean()
    print(f"reached: {error:.2f} mg/dL mean absolute error (to beat: 15.2, ridge)")
    if options.picture:
        draw(options.picture, y_test, forecast, last_test)


def ridge(x, y, x_test):
    """Linear regression with an L2 penalty of 1, on the readings of a window and a constant."""
    a, b = (np.hstack([z[:, :, 0], np.ones((len(z), 1))]).astype(float) for z in (x, x_test))
    return b @ np.linalg.solve(a.T @ a + np.eye(a.shape[1]), a.T @ y)


def draw(path, y, forecast, last):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes, hours = figure.subplots(), np.arange(288) / 12
    axes.plot(hours, y[:288], "k", label="measured")
    axes.plot(hours, forecast[:288], label="forecast 30 minutes before")
    axes.plot(hours, last[:288], "C1:", lw=1, label="persistence")
    axes.set(xlabel="hours", ylabel="glucose, mg/dL", xlim=(0, 24))
    axes.legend()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
