"""Merge rules: how concurrent changes of one cell become one value.

A cell's state is an element of a join-semilattice: `join` is commutative, associative and
idempotent (Shapiro et al., "Conflict-free Replicated Data Types", 2011). A change carries a delta,
which with the change's stamp becomes a small state of its own, so that applying is joining. All
that a rule needs is in its deltas: no schema is asked, and a region merges fields that it does not
know.

States are never changed in place. Their forms, by rule:

LATEST     (clock, region, incarnation, value): the highest wins
FIRST      the same: the least wins
MAX        (rank, value, stamp): the highest wins; ranks compare as bytes
MIN        the same: the least wins
COUNTER    {origin: (incremented, decremented)}: running totals, the highest of each
BOUNDED_COUNTER  {origin: row of running totals}, the highest of each: see `rules.escrow`
SET        ({dot: element}, {origin: highest}, dots): additions win over concurrent removals
MAP        ({dot: (clock, entry)}, {origin: highest}, dots): the same, for each key of the map
KEEP_BOTH  ({dot: (clock, value)}, {origin: highest}, dots): concurrent values all stay
others     (states, {stamp: delta}): kept unmerged for a newer version: see `rules.parked`

A value is the canonical encoding of the field inside its parent message, tag included; the empty
value is a cleared field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mesh.replication.core.rules.counter import Counter
from mesh.replication.core.rules.dots import Dot, Read
from mesh.replication.core.rules.escrow import Escrow
from mesh.replication.core.rules.ordered import Max, Min
from mesh.replication.core.rules.orset import Set
from mesh.replication.core.rules.parked import Parked
from mesh.replication.core.rules.registers import KeepBoth, Map
from mesh.replication.core.rules.rule import Rule, Stamp, State, Unseen, Version
from mesh.replication.core.rules.stamped import First, Latest

__all__ = [
    "BOUNDED_COUNTER",
    "COUNTER",
    "FIRST",
    "KEEP_BOTH",
    "LATEST",
    "MAP",
    "MAX",
    "MIN",
    "RULES",
    "SET",
    "Counter",
    "Dot",
    "Escrow",
    "First",
    "KeepBoth",
    "Latest",
    "Map",
    "Max",
    "Min",
    "Read",
    "Rule",
    "Set",
    "Stamp",
    "State",
    "Unseen",
    "Version",
]

LATEST, FIRST, MAX, MIN, COUNTER, BOUNDED_COUNTER, SET, MAP, KEEP_BOTH = 1, 2, 3, 4, 5, 6, 7, 8, 10
"""The rules that this version merges, numbered as in isthmus.options.v1.Merge.

MESSAGE is none: it shows in the paths of its fields' cells.
"""

latest, first, maximum, minimum = Latest(), First(), Max(), Min()
counter, escrow, orset, registers, both = Counter(), Escrow(), Set(), Map(), KeepBoth()
parked = Parked()


class _Rules(dict[int, Rule]):
    def __missing__(self, number: int) -> Rule:
        if number < 0:
            return parked
        raise KeyError(number)


RULES: Final[Mapping[int, Rule]] = _Rules(
    {
        LATEST: latest,
        FIRST: first,
        MAX: maximum,
        MIN: minimum,
        COUNTER: counter,
        BOUNDED_COUNTER: escrow,
        SET: orset,
        MAP: registers,
        KEEP_BOTH: both,
    }
)
"""The rules by number. What comes under any other is parked, under that number below zero."""
