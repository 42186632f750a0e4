"""One pass of a recurrent layer through a batch of sequences, as the kernels take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from npdl._ext import copied


class Walk(NamedTuple):
    """The arrays of a forward pass, which its backward pass reads."""

    x: NDArray
    w: NDArray
    start: list[NDArray]  # h0, [c0]
    mask: NDArray | None
    saved: list[Any]  # h, [c], [gates]; None if not needed
    reverse: bool
    drops: tuple[NDArray | None, NDArray | None]
    n_states: int

    def forward_args(self, acts: list[Any]) -> tuple[Any, ...]:
        """The arguments of the forward kernel."""
        options = self.reverse, *self.drops
        return (self.x, self.w, *self.start, self.mask, *self.saved, *acts, *options)

    def backward_args(
        self,
        acts: list[Any],
        dh: NDArray | None,
        ends: list[NDArray | None],
        dx: NDArray | None,
        dw: NDArray | None,
        dstart: list[NDArray],
    ) -> tuple[Any, ...]:
        """The arguments of the backward kernel."""
        inputs = self.x, self.w, *self.start, self.mask, *self.saved
        return (*inputs, dh, *ends, dx, dw, *dstart, *acts, self.reverse, *self.drops)

    def sequence(self, in_order_of_steps: bool = True) -> NDArray:
        """The output of every step, in the order of the input or of the loop."""
        h = self.saved[0]
        return h if in_order_of_steps or not self.reverse else copied(h[:, ::-1])

    def last(self) -> list[NDArray]:
        """Copies of the final states that were kept."""
        end = 0 if self.reverse else -1
        states = self.saved[: self.n_states]
        return [copied(state[:, end]) for state in states if state is not None]


class KernelCall(NamedTuple):
    """A pending kernel call."""

    module: Any
    function: str
    args: tuple[Any, ...]


def run(calls: Sequence[KernelCall]) -> None:
    """Make one call, or two at once where the kernels can."""
    if len(calls) == 2 and calls[0][:2] == calls[1][:2]:
        calls[0].module.recurrent_pair(calls[0].function, calls[0].args, calls[1].args)
        return
    for module, function, args in calls:
        getattr(module, function)(*args)
