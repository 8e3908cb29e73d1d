"""How the benchmarks write: whole things, or some of their fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mesh.replication import Transaction


def upsert(transaction: Transaction, things: Sequence[Any], *paths: str) -> Any:
    """Writes `paths` of each thing, or creates it; without paths all of its fields."""
    transaction.upsert(things, *paths)
    return things[0]
