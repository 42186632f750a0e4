"""A callback for the moving averages that optimizers keep with ``use_ema=True``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdl._checks import error_message
from npdl.callbacks.base import Callback, Logs

if TYPE_CHECKING:
    from npdl.trainer import Trainer


class SwapEMAWeights(Callback):
    """Validate, evaluate and predict with the moving averages of the parameters.

    During that time they replace the parameters. Training continues with the parameters themselves.

    Parameters
    ----------
    swap_on_epoch : bool
        Keep the averages in the model from the validation to the start of the next epoch, so that
        other callbacks save the averages in `on_epoch_end`. This callback must then come before
        them.
    """

    def __init__(self, swap_on_epoch: bool = False) -> None:
        self.swap_on_epoch = bool(swap_on_epoch)

    def _put(self, averages: bool) -> None:
        if self.model.optimizer.swapped != averages:
            self.model.swap_averages()

    def set_model(self, model: Trainer) -> None:
        """Check that the optimizer keeps averages."""
        super().set_model(model)
        if not getattr(model.optimizer, "use_ema", False):
            rule = "SwapEMAWeights needs an optimizer with use_ema=True"
            raise ValueError(error_message(rule, optimizer=type(model.optimizer).__name__))

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Restore the parameters."""
        self._put(False)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Leave the averages in the model, if requested."""
        self._put(self.swap_on_epoch)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Put the averages into the model."""
        self._put(True)

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Restore the parameters."""
        self._put(False)

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Put the averages into the model."""
        self._put(True)

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Restore the parameters."""
        self._put(False)
