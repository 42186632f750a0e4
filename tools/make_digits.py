"""Make npdl/datasets/digits.npz from the digits.csv.gz of scikit-learn.

    pip install scikit-learn
    python tools/make_digits.py

The file holds ``images``, uint8 of shape (1797, 8, 8) with values 0 to 16, and ``labels``, uint8 of
shape (1797,), in the order of the source. The same source and zlib give the same bytes.
"""

from __future__ import annotations

import gzip
from importlib.resources import files
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parents[1] / "npdl" / "datasets" / "digits.npz"


def main() -> None:
    """Write the file and print its size."""
    source = files("sklearn.datasets.data") / "digits.csv.gz"
    text = gzip.decompress(source.read_bytes()).decode("ascii")
    table = np.array([line.split(",") for line in text.split()], dtype=float).astype(np.uint8)
    if table.shape != (1797, 65) or table[:, :64].max() != 16 or table[:, 64].max() != 9:
        raise ValueError(f"digits.csv.gz is not the table expected. Received: shape {table.shape}.")
    np.savez_compressed(TARGET, images=table[:, :64].reshape(-1, 8, 8), labels=table[:, 64])
    print(f"{TARGET}: {len(table)} images, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
