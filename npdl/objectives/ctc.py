"""Connectionist temporal classification: labels without positions in the sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npdl import activations
from npdl._checks import check_int, error_message
from npdl._elementary import log
from npdl._ext import kernels
from npdl.objectives.base import register, step_mask
from npdl.objectives.crossentropy import LogitsCache
from npdl.objectives.kinds import Clipped


@register("connectionist_temporal_classification")
class CTC(Clipped):
    """-log of the probability that the outputs of a sample read as its labels (Graves et al. 2006).

    Outputs (N, T, K) are probabilities of K classes at each step, one of which is the blank. A path
    through them, a class at each step, reads as the labels left when repeats are merged and blanks
    are dropped; the probabilities of all paths that read as the labels are added. Targets are
    labels, class numbers of shape (N, L), filled with -1 where there are fewer than L. A sample is
    an item; a mask (N, T) gives the real steps, which may have padding on either side, or gaps.

    The mean is over the samples, as in Keras (PyTorch's ``"mean"`` also divides each sample's loss
    by its number of labels). Labels that need more steps than there are have an infinite loss and
    the gradient 0: L labels need L steps, and one more between two labels that are equal.

    Outputs outside of [epsilon, 1] count as the nearer end, and their gradient is 0.
    `forward_logits` and `backward_logits` fuse the loss with the softmax before it: they need no
    clipping. A model whose last layer is a softmax is trained through them.
    `npdl.data.ctc_decode` reads labels from outputs.

    Parameters
    ----------
    blank : int
        The class of the blank; a negative one counts from the last class.
    epsilon : float
    from_logits : bool
        Whether the outputs are logits z, p = softmax(z): for a network without a softmax.
    zero_infinity : bool
        Replace infinite losses with 0, so that a few samples that are too short do not make the
        mean infinite.
    reduction : {'mean', 'sum', 'none'}
    """

    masks_steps = True

    def __init__(
        self,
        blank: int = -1,
        *,
        epsilon: float = 1e-11,
        from_logits: bool = False,
        zero_infinity: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(epsilon, reduction=reduction)
        self.blank = check_int("blank", blank, low=-(2**31))
        self.from_logits = bool(from_logits)
        self.zero_infinity = bool(zero_infinity)

    def match(self, outputs, targets):
        """Return the shape of the labels; see `Objective.match`."""
        if len(outputs) != 3:
            raise ValueError(error_message("Outputs must have shape (N, T, K)", shape=outputs))
        if len(targets) != 2 or targets[0] != outputs[0]:
            rule = f"Targets must be labels of shape ({outputs[0]}, L)"
            raise ValueError(error_message(rule, shape=targets))
        self._blank_of(outputs[2])
        return targets

    def check(self, p, t):
        """Return outputs and int64 labels; see `Objective.check`."""
        classes, labels = p.shape[2], np.asarray(t, order="C")
        blank = self._blank_of(classes)
        wrong = ~((labels >= -1) & (labels < classes)) | (labels == blank)
        if labels.dtype.kind == "f":
            wrong |= labels != np.floor(labels)
        if wrong.any():
            rule = f"Labels must be class numbers in [0, {classes}), not the blank, {blank}, or -1"
            raise ValueError(error_message(f"{rule} for no label", label=labels[wrong][0].item()))
        return p, np.asarray(labels, np.int64)

    def _blank_of(self, classes: int) -> int:
        if not -classes <= self.blank < classes:
            rule = f"`blank` must be one of the {classes} classes of the outputs"
            raise ValueError(error_message(rule, blank=self.blank))
        return self.blank % classes

    def item_shape(self, p):
        """Return the shape of the samples."""
        return p.shape[:1]

    @property
    def fuses_with(self) -> type | None:
        """The softmax."""
        return activations.Softmax if type(self) is CTC and not self.from_logits else None

    def values(self, p, t, mask=None):
        """Return the value of each sample; see `Objective.values`."""
        x = p if self.from_logits else log(self._clip(p))
        return self._losses(x, t, mask, self.from_logits)

    def gradient(self, p, t, mask=None):
        """Return the gradient of each sample's value; see `Objective.gradient`."""
        x = p if self.from_logits else log(self._clip(p))
        dx = np.empty_like(x)
        ones = np.ones(len(x), x.dtype)
        self._fill_gradient(x, t, mask, self.from_logits, ones, dx)
        if not self.from_logits:
            dx /= self._clip(p)
            dx[self._outside(p)] = 0
        return dx

    def _losses(
        self, x: np.ndarray, t: np.ndarray, mask: np.ndarray | None, logits: bool
    ) -> np.ndarray:
        loss = np.empty(len(x), x.dtype)
        kernels().ctc_forward(x, t, mask, self._blank_of(x.shape[2]), logits, loss)
        if self.zero_infinity:
            loss[loss == np.inf] = 0
        return loss

    def _fill_gradient(
        self,
        x: np.ndarray,
        t: np.ndarray,
        mask: np.ndarray | None,
        logits: bool,
        factors: np.ndarray,
        dx: np.ndarray,
    ) -> None:
        blank = self._blank_of(x.shape[2])
        kernels().ctc_backward(x, t, mask, blank, logits, factors, dx)

    def forward_logits(
        self,
        logits: ArrayLike,
        targets: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        out: np.ndarray | None = None,
    ) -> tuple[Any, np.ndarray, LogitsCache]:
        """Return the loss of the softmax of `logits`.

        Parameters
        ----------
        logits : array_like, shape (N, T, K)
        targets, sample_weight, mask : array_like
            As in `forward`.
        out : ndarray, shape and dtype of `logits`, optional
            Array for the probabilities; a new one by default.

        Returns
        -------
        loss : float or ndarray
            As in `forward`.
        probabilities : ndarray, shape of `logits`
        cache : LogitsCache
            For `backward_logits`. It holds `logits`, which must not change before that.
        """
        z, t = self._matched(logits, targets)
        counted = self.counted(z, t, sample_weight, mask)
        kept = counted.kept
        if kept is not None:  # items that do not count may hold anything
            t = np.where(kept[:, None], t, -1)
        t = self.check(z, t)[1]
        steps = None if mask is None else step_mask(z.shape, mask)
        p = np.empty(z.shape, z.dtype) if out is None else out
        kernels().softmax_forward(z.reshape(-1, z.shape[2]), p.reshape(-1, z.shape[2]))
        values = self._losses(z, t, steps, True)
        values = values if kept is None else values[kept]
        cache = LogitsCache(p, (z, t, steps), counted)  # type: ignore[arg-type]
        return self._reduced(values, counted, self.item_shape(z)), p, cache

    def backward_logits(self, cache: LogitsCache, *, out: np.ndarray | None = None) -> np.ndarray:
        """Return the gradient of the loss in the logits.

        Parameters
        ----------
        cache : LogitsCache
            From `forward_logits`.
        out : ndarray, shape and dtype of the probabilities, optional
            Array for the gradient; a new one by default.
        """
        p, (z, t, steps), counted = cache
        factors = np.full(len(p), self._share(counted), p.dtype)
        if counted.weights is not None:
            factors *= counted.weights
        if counted.kept is not None:
            factors[~counted.kept] = 0
        dz = np.empty(p.shape, p.dtype) if out is None else out
        self._fill_gradient(z, t, steps, True, factors, dz)
        return dz
