"""A share of a processor's time, in small slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

SLICE_NS = 1_500_000
"""What may be used at once: nothing else is delayed for longer by it."""


class Budget:
    """`share` of the time that passes on `clock`, in nanoseconds; without a clock no limit."""

    def __init__(self, share: float = 1.0, clock: Callable[[], int] | None = None) -> None:
        self._share = share
        self._clock = clock
        self._left = float(SLICE_NS)
        self._looked = clock() if clock else 0

    @property
    def open(self) -> bool:
        """Whether something is left. A piece of work that has begun may overdraw it."""
        if self._clock is None:
            return True
        now = self._clock()
        self._left = min(SLICE_NS, self._left + (now - self._looked) * self._share)
        self._looked = now
        return self._left > 0

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Whatever time is spent inside is taken from it."""
        begin = self._clock() if self._clock else 0
        try:
            yield
        finally:
            if self._clock is not None:
                self._left -= self._clock() - begin
