"""BOUNDED_COUNTER: what may be taken is divided between origins beforehand.

Escrow (O'Neil, "The Escrow Transactional Method", 1986) as a replicated type (Balegas et al.,
"Extending Eventually Consistent Cloud Databases for Enforcing Numeric Invariants", 2015). An origin
has the rights that it made by adding, those that others gave it, less those that it gave and spent.
It takes no more than it has, so under causal delivery no region ever reads a total below the bound.

An origin writes its own row alone, and that of a former life of its region once it knows all of
it (see `Journal.settled`). Every number in a row only grows, so joining is the highest of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mesh.replication.core.clocks import Origin
from mesh.replication.core.errors import ChainBroken
from mesh.replication.core.rules.rule import Rule, Stamp, State
from mesh.replication.core.wire import VARINT, read_text, read_varint, tag, text, varint


class Row(NamedTuple):
    """One origin's totals: what it began with at the bound, made, spent and gave to whom.

    `asked` are the rights that it wants to have got from each region, of all that it ever got.
    """

    kept: int = 0
    made: int = 0
    spent: int = 0
    given: Mapping[Origin, int] = {}
    asked: Mapping[str, int] = {}


Rows = Mapping[Origin, Row]
"""A cell's state. Rows without anything in them do not exist."""

NOTHING = Row()


class Escrow(Rule):
    """A counter that never falls below its bound. Its delta is rows of its region, whole."""

    def from_delta(self, stamp: Stamp, delta: bytes) -> State:
        rows = self.decode(delta)
        if any(origin.region != stamp.region for origin in rows):
            raise ChainBroken("a cell is damaged: a region spends what is another's")
        return rows

    def values(self, state: State) -> Iterable[bytes]:
        return ()

    def join(self, one: State, other: State) -> State:
        merged: dict[Origin, Row] | None = None
        for origin, row in other.items():
            mine = one.get(origin, NOTHING)
            joined = _join(mine, row)
            if joined != mine:
                if merged is None:
                    merged = dict(one)
                merged[origin] = joined
        return one if merged is None else merged

    def encode(self, state: State) -> bytes:
        parts: list[bytes] = []
        for origin, row in sorted(state.items()):
            parts += (text(origin.region), varint(origin.incarnation))
            parts += (varint(row.kept), varint(row.made), varint(row.spent))
            parts.append(varint(len(row.given)))
            for to, total in sorted(row.given.items()):
                parts += (text(to.region), varint(to.incarnation), varint(total))
            parts.append(varint(len(row.asked)))
            for region, total in sorted(row.asked.items()):
                parts += (text(region), varint(total))
        return b"".join(parts)

    def decode(self, data: bytes) -> State:
        rows: dict[Origin, Row] = {}
        at = 0
        while at < len(data):
            origin, at = _read_origin(data, at)
            kept, at = read_varint(data, at)
            made, at = read_varint(data, at)
            spent, at = read_varint(data, at)
            given: dict[Origin, int] = {}
            count, at = read_varint(data, at)
            for _ in range(count):
                to, at = _read_origin(data, at)
                given[to], at = read_varint(data, at)
            asked: dict[str, int] = {}
            count, at = read_varint(data, at)
            for _ in range(count):
                region, at = read_text(data, at)
                asked[region], at = read_varint(data, at)
            rows[origin] = Row(kept, made, spent, given, asked)
        return rows

    def render(self, number: int, state: State) -> bytes:
        total = self.total(state)
        return tag(number, VARINT) + varint(total) if total else b""

    @staticmethod
    def total(rows: Rows) -> int:
        """The counter's value."""
        return sum(row.kept + row.made - row.spent for row in rows.values())


def rights(rows: Rows, origin: Origin) -> int:
    """How much an origin may take."""
    row = rows.get(origin, NOTHING)
    got = sum(other.given.get(origin, 0) for other in rows.values())
    return row.made - row.spent + got - sum(row.given.values())


def by_region(rows: Rows) -> dict[str, int]:
    """How much each region may take, the rights of its former lives included."""
    found: dict[str, int] = {}
    for origin in {*rows, *(to for row in rows.values() for to in row.given)}:
        found[origin.region] = found.get(origin.region, 0) + rights(rows, origin)
    return {region: amount for region, amount in sorted(found.items()) if amount}


def begun(origin: Origin, value: int, bound: int) -> dict[Origin, Row]:
    """The rows that begin a counter at a value that is not below its bound."""
    row = Row(kept=bound, made=value - bound)
    return {} if row == NOTHING else {origin: row}


def added(rows: Rows, origin: Origin, amount: int) -> dict[Origin, Row]:
    """The rows by which an origin adds: what it adds it may take."""
    row = rows.get(origin, NOTHING)
    return {origin: row._replace(made=row.made + amount)}


def inherited(rows: Rows, origin: Origin, former: Iterable[Origin]) -> dict[Origin, Row]:
    """The rows by which an origin gets what former lives of its region have left."""
    changed: dict[Origin, Row] = {}
    for life in former:
        left = rights(rows, life)
        if left > 0:
            changed[life] = _giving(rows.get(life, NOTHING), origin, left)
    return changed


def taken(
    rows: Rows, origin: Origin, amount: int, former: Iterable[Origin]
) -> dict[Origin, Row] | None:
    """The rows by which an origin takes an amount; None if it has not the rights."""
    changed: dict[Origin, Row] = {}
    if rights(rows, origin) < amount:
        changed = inherited(rows, origin, former)
        rows = {**rows, **changed}
        if rights(rows, origin) < amount:
            return None
    row = rows.get(origin, NOTHING)
    return {**changed, origin: row._replace(spent=row.spent + amount)}


def asking(rows: Rows, origin: Origin, amounts: Mapping[str, int]) -> dict[Origin, Row]:
    """The row by which an origin asks regions for rights; empty if it has asked for them."""
    row = rows.get(origin, NOTHING)
    totals = {
        region: _got(rows, origin, region) + amount
        for region, amount in amounts.items()
        if amount > _open(rows, origin, region)
    }
    return {origin: row._replace(asked={**row.asked, **totals})} if totals else {}


def wanted(rows: Rows, region: str) -> dict[Origin, int]:
    """What a region was asked for and has not given yet, by who asked."""
    amounts = {asker: _open(rows, asker, region) for asker in rows if asker.region != region}
    return {asker: amount for asker, amount in amounts.items() if amount}


def answering(rows: Rows, origin: Origin, former: Iterable[Origin]) -> dict[Origin, Row]:
    """The rows by which an origin gives what its region was asked for, as far as it has it."""
    asked = wanted(rows, origin.region)
    if not asked:
        return {}
    changed = inherited(rows, origin, former)
    rows = {**rows, **changed}
    left = rights(rows, origin)
    row = rows.get(origin, NOTHING)
    for asker, amount in sorted(asked.items()):
        gift = min(amount, left)
        if gift > 0:
            row = _giving(row, asker, gift)
            left -= gift
    return {**changed, origin: row} if row != rows.get(origin, NOTHING) else {}


def _got(rows: Rows, origin: Origin, region: str) -> int:
    return sum(row.given.get(origin, 0) for giver, row in rows.items() if giver.region == region)


def _open(rows: Rows, asker: Origin, region: str) -> int:
    asked = rows.get(asker, NOTHING).asked.get(region, 0)
    return max(0, asked - _got(rows, asker, region))


def _giving(row: Row, to: Origin, amount: int) -> Row:
    return row._replace(given={**row.given, to: row.given.get(to, 0) + amount})


def _join(one: Row, other: Row) -> Row:
    return Row(
        max(one.kept, other.kept),
        max(one.made, other.made),
        max(one.spent, other.spent),
        {
            to: max(one.given.get(to, 0), other.given.get(to, 0))
            for to in {*one.given, *other.given}
        },
        {r: max(one.asked.get(r, 0), other.asked.get(r, 0)) for r in {*one.asked, *other.asked}},
    )


def _read_origin(data: bytes, at: int) -> tuple[Origin, int]:
    region, at = read_text(data, at)
    incarnation, at = read_varint(data, at)
    return Origin(region, incarnation), at
