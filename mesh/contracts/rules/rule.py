"""What a rule is: an identifier, one sentence of purpose and a handler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mesh.contracts.model import Location
from mesh.contracts.schema import Schema


@dataclass(frozen=True)
class Subject:
    """What rules look at: the schema and what is known of where it shall run."""

    schema: Schema
    regions: int | None
    workloads: frozenset[str]


@dataclass(frozen=True)
class Problem:
    """What a rule found: where, what is wrong, and what to write instead."""

    location: Location
    message: str
    remedy: str


@dataclass(frozen=True)
class Rule:
    """One rule."""

    id: str
    purpose: str
    check: Callable[[Subject], Iterator[Problem]]
