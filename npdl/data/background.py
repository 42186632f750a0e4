"""Batches prepared by another thread, ahead of their use."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from npdl._checks import check_int

_END = object()


class Background:
    """Iterate in another thread, so that the next items are ready when they are needed.

    NumPy and npdl's kernels release the GIL while they compute, so a batch is read, gathered or
    augmented while the model trains on the one before it.

    Parameters
    ----------
    source : iterable
        Such as `Batches`. The result can be iterated as often as `source`.
    ahead : int
        The most items to prepare in advance.

    Notes
    -----
    An exception in `source` is raised in place of the item. Leaving the loop early also stops the
    thread; call ``close()`` on the iterator to stop it at once.

    Examples
    --------
    >>> from npdl.data import Background
    >>> list(Background(range(3)))
    [0, 1, 2]
    """

    def __init__(self, source: Iterable[Any], ahead: int = 2) -> None:
        if not isinstance(source, Iterable):
            raise TypeError(f"`source` must be iterable. Received: source={source!r}")
        self.source = source
        self.ahead = check_int("ahead", ahead)

    def __len__(self) -> int:
        """Number of items, if `source` knows it."""
        return len(self.source)  # type: ignore[arg-type]

    def get_state(self) -> Any:
        """Return the state of `source`, if it has one; see `Batches.get_state`."""
        return self.source.get_state() if hasattr(self.source, "get_state") else None

    def set_state(self, state: Any) -> None:
        """Set the state of `source`."""
        if hasattr(self.source, "set_state"):
            self.source.set_state(state)

    def __iter__(self) -> Iterator[Any]:
        # Here, in the caller's thread, `source` draws what it needs from npdl's generator.
        return _run_ahead(iter(self.source), self.ahead)


def _run_ahead(items: Iterator[Any], ahead: int) -> Iterator[Any]:
    """Yield `items`; another thread prepares up to `ahead` of them in advance."""
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()
    free = threading.Semaphore(ahead)
    stop = threading.Event()

    def work() -> None:
        failure = None
        try:
            while free.acquire() and not stop.is_set():
                item = next(items, _END)
                if item is _END:
                    break
                ready.put((item, None))
        except BaseException as error:
            failure = error
        finally:
            if hasattr(items, "close"):  # a user's generator may hold a file
                items.close()
            ready.put((_END, failure))

    # The backend chosen by `use_backend` applies in that thread too.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name="npdl-background", daemon=True)
    thread.start()
    try:
        while True:
            item, failure = ready.get()
            if failure is not None:
                raise failure
            if item is _END:
                return
            # One item is in use now, so another may be prepared.
            free.release()
            yield item
    finally:
        stop.set()
        free.release()
        thread.join()
