"""Makes the golden file of the present version of the format, from the root of the checkout.

    PYTHONPATH=. python tests/saving/make_golden.py

A golden file is made once for each version, and never again: it represents the files that users
have.
"""

import json
from pathlib import Path

import numpy as np
from saving_models import make_model, train

import npdl
from npdl.saving import FORMAT

FOLDER = Path(__file__).parent
INPUT = np.linspace(-1, 1, 40).reshape(2, 1, 4, 5)


def main():
    path = FOLDER / f"golden-format{FORMAT}.safetensors"
    if path.exists():
        raise SystemExit(f"{path} is there already")
    npdl.utils.set_seed(20)
    schedule = npdl.schedules.CosineDecay(0.002, 100)
    model = make_model(npdl.optimizers.Adam(lr=schedule, clipnorm=1.0), metrics=["acc", "top_k"])
    train(model)
    model.save(path)
    wanted = {
        "outputs": model.predict(INPUT).tolist(),
        "rate": model.optimizer.current_lr,
        "iterations": model.optimizer.iterations,
        "next": npdl.utils.get_rng().random(),
    }
    path.with_suffix(".json").write_text(json.dumps(wanted, indent=1) + "\n")


if __name__ == "__main__":
    main()
