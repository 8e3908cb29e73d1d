"""Who called what last: the evidence without which nothing that is called may go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Use:
    """A principal that called a method, from which region, and when last (RFC 3339)."""

    principal: str
    region: str
    last: str


class Uses(Protocol):
    """What was counted in all regions."""

    def of(self, method: str, caller: str) -> tuple[Use, ...] | None:
        """Calls of ``package.Service/Method`` by a caller (``""``: by any).

        None says that it is not known, which is never the same as none.
        """


class Unknown:
    """Nothing was counted."""

    def of(self, method: str, caller: str) -> tuple[Use, ...] | None:
        """Not known."""
        return None
