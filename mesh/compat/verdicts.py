"""What may be done with a change, and how several verdicts on it become one."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum


class Verdict(Enum):
    """How a change may be rolled out."""

    SAFE = "safe"
    CALLERS_FIRST = "callers first"
    SERVERS_FIRST = "servers first"
    # Every region must understand it before anyone writes it.
    GATED = "gated"
    BREAKING = "breaking"

    @property
    def kind(self) -> str:
        """``safe``, ``ordered``, ``gated`` or ``breaking``."""
        return "ordered" if self in _ORDERED else self.value

    @property
    def rank(self) -> int:
        """The higher, the worse."""
        return KINDS.index(self.kind)


KINDS = ("safe", "ordered", "gated", "breaking")
_ORDERED = (Verdict.CALLERS_FIRST, Verdict.SERVERS_FIRST)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of them; two orders that contradict each other are no order."""
    found = set(verdicts)
    if found >= set(_ORDERED):
        return Verdict.BREAKING
    return max(found, key=lambda verdict: verdict.rank, default=Verdict.SAFE)
