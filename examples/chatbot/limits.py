"""How often an address may ask."""

import math
import time
from collections.abc import Callable


class RateLimit:
    """A bucket of tokens for each address; a question takes one, and they come back with time.

    Parameters
    ----------
    per_second : float
        How many come back.
    burst : int
        How many there are at most.
    most : int
        How many addresses are remembered; beyond that the one whose last question is longest ago
        is forgotten.
    clock : callable
        The time in seconds.
    """

    def __init__(
        self,
        per_second: float,
        burst: int,
        most: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.per_second, self.burst, self.most = per_second, burst, most
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait(self, address: str) -> int:
        """Take a token and return 0, or return in how many seconds there will be one."""
        now = self._clock()
        tokens, last = self._buckets.pop(address, (float(self.burst), now))
        tokens = min(self.burst, tokens + (now - last) * self.per_second)
        taken = tokens >= 1
        self._buckets[address] = (tokens - taken, now)
        if len(self._buckets) > self.most:
            del self._buckets[next(iter(self._buckets))]
        return 0 if taken else math.ceil((1 - tokens) / self.per_second)
