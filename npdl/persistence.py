"""Level 2: saving, loading and copying of models, as methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from numpy.typing import ArrayLike, NDArray

from npdl import serialization
from npdl._files import StrPath
from npdl._registry import custom_objects as using_custom_objects
from npdl.layers.base import Layer
from npdl.serialization import Mismatch

#: What copies of a model do without.
_PASSING = frozenset(
    ("loop", "_trained", "_adding", "_running", "_reached", "_replays", "_passes", "_repeats")
)


class Persistent:
    """The methods of `npdl.model.Model` for files, configurations and weights."""

    layers: list[Layer]
    compiled: bool

    def __getstate__(self) -> dict[str, Any]:
        """The state for `pickle` and `copy.deepcopy`: everything except a running training loop."""
        return {k: v for k, v in self.__dict__.items() if k not in _PASSING}

    def to_json(self) -> dict[str, Any]:
        """Return the model's configuration as JSON types: layers, loss, optimizer, no weights."""
        return serialization.model_config(self._require_model())

    @classmethod
    def from_json(
        cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> Self:
        """Make a model from the dict that `to_json` returned; its weights are new random ones.

        Parameters
        ----------
        config : dict
        custom_objects : dict, optional
            Your own classes by name, unless they are registered.
        """
        model = cls()
        with using_custom_objects(custom_objects):
            serialization.fill_model(model._require_model(), config)
        return model

    def save(self, path: StrPath) -> None:
        """Write the whole model to one file, for `npdl.load_model`.

        That is layers, weights, loss, optimizer with its state, and the state of npdl's random
        generator, in safetensors format, which other programs read too; no pickle. The file
        replaces an old one in one step, once it is on the disk.

        Parameters
        ----------
        path : path
            The exact name of the file; ``.safetensors`` is the usual suffix.
        """
        serialization.save_model(self._require_model("save"), path)

    def save_weights(self, path: StrPath) -> None:
        """Write only the weights to a safetensors file; see `save`."""
        serialization.save_weights(self._require_model("save_weights"), path)

    def load_weights(self, path: StrPath, strict: bool = True) -> Mismatch:
        """Read weights from a safetensors file: of `save`, `save_weights` or another program.

        Parameters
        ----------
        path : path
        strict : bool
            Whether names and shapes must be those of the model. If not, only matching arrays are
            loaded.

        Returns
        -------
        Mismatch
            The names that did not fit.
        """
        return serialization.load_weights(
            self._require_model("load_weights"), serialization.read_weights(path), strict
        )

    def state_dict(self) -> dict[str, NDArray]:
        """Return copies of `weights`, all arrays by name."""
        return {name: a.copy() for name, a in self._require_model("state_dict").weights.items()}

    def load_state_dict(self, state_dict: Mapping[str, ArrayLike], strict: bool = True) -> Mismatch:
        """Take over weights by name.

        Parameters
        ----------
        state_dict : dict of array_like
        strict : bool
            As for `load_weights`.

        Returns
        -------
        Mismatch
            The names that did not fit.
        """
        return serialization.load_weights(
            self._require_model("load_state_dict"), state_dict, strict
        )

    def get_weights(self) -> list[NDArray]:
        """Return copies of all arrays in the order of `weights`."""
        return [array.copy() for array in self._require_model("get_weights").weights.values()]

    def set_weights(self, weights: Sequence[ArrayLike]) -> None:
        """Take over the arrays that `get_weights` returned.

        Parameters
        ----------
        weights : sequence of array_like
        """
        model = self._require_model("set_weights")
        names, weights = list(model.weights), list(weights)
        if len(weights) != len(names):
            rule = f"There must be {len(names)} arrays, one for each of {', '.join(names)}"
            raise ValueError(f"{rule}. Received: {len(weights)}")
        serialization.load_weights(model, dict(zip(names, weights)), strict=True)

    def _require_model(self, what: str | None = None) -> Any:
        """Return this model; an error if it is not built, as `what` needs."""
        if what is not None:
            self.require_plan(what)  # type: ignore[attr-defined]
        return self
