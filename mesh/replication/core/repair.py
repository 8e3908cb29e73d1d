"""Repairing entities from what other regions have of them, and from what is stored here.

A peer's state at its vector, joined with what the journal here holds beyond that vector, is what
this region must have: whatever the peer had not seen is in the journal still.

A peer may be further behind than the journal reaches back. Then its state is taken if its
fingerprint proves that it is the one that was damaged here; or what was damaged in memory is read
from the store. If no member has it as it was, the peers' states are joined after a while: what was
changed since is lost then, and the damage says so. Until that is settled no snapshot is given: it
would end in all regions what one of them may still have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Protocol

from mesh.replication.core import damage as damages
from mesh.replication.core.clocks import Vector, covers
from mesh.replication.core.damage import DIVERGENCE, MEMORY, Damage, Offer
from mesh.replication.core.entities import (
    EntityKey,
    EntityState,
    decode,
    encode,
    fingerprint,
    from_change,
    join,
)
from mesh.replication.core.errors import HistoryTruncated
from mesh.replication.core.frames import FrameLog, parse

if TYPE_CHECKING:
    from mesh.replication.core.batches import Visible
    from mesh.replication.core.journal import Journal

PATIENCE_MS = 3000
"""For so long all reachable peers are waited for before two that differ are joined.

And for so long they are asked before what is stored here is read.
"""

LOST = "no region had it as it was: what was changed since the state that was taken is lost"

_READ_BYTES = 1 << 20


class Shelf(FrameLog, Protocol):
    """A store, as repairs read it."""

    def flushed(self) -> Vector:
        """Up to where all states are stored; the frames beyond are held."""

    def stored(self, entity: EntityKey) -> bytes | None:
        """An entity's state as stored, in canonical bytes; empty if none is.

        None if it is not what its checksum says.
        """


def repair(
    journal: Journal, shelf: Shelf, reachable: Collection[str], now_ms: int
) -> Iterator[Visible]:
    """Repairs what can be repaired now; gives what becomes visible by each repair."""
    for damage in journal.integrity.damages.open(from_peers=True):
        if damage.entity is None:
            continue  # A frame: the store's business.
        damage.look(now_ms)
        if damage.kind == DIVERGENCE:
            # What is in memory counts only if it still is what was hashed; else it is damage there.
            journal.integrity.suspect(damage.entity, now_ms)
        if damage.kind == DIVERGENCE:
            states = _told_apart(journal, shelf, damage, damage.entity, reachable)
        else:
            states = _replacements(journal, shelf, damage, damage.entity)
        if not states:
            continue
        before = journal.committed.get(damage.entity)
        state = chosen(states)
        if damage.kind == DIVERGENCE and _bytes(state) == _bytes(before):
            journal.integrity.damages.mend(damage, now_ms)
            continue
        visible = journal.replace(damage.entity, state)
        if visible is not None:
            journal.integrity.damages.mend(damage, now_ms)
            yield visible


def chosen(states: list[EntityState | None]) -> EntityState | None:
    """Of states that should be equal: the one that most regions have, or else all of them joined.

    Joined, whatever the regions differed in ends as one and the same in all of them.
    """
    votes = Counter(map(_bytes, states))
    winner, count = votes.most_common(1)[0]
    if 2 * count > len(states):
        return next(state for state in states if _bytes(state) == winner)
    joined: EntityState | None = None
    for state in states:
        joined = join(joined, state)
    return joined


def _bytes(state: EntityState | None) -> bytes:
    return b"" if state is None else encode(state)


def _told_apart(
    journal: Journal,
    shelf: Shelf,
    damage: Damage,
    entity: EntityKey,
    reachable: Collection[str],
) -> list[EntityState | None]:
    """What regions have of an entity that holds what was hashed here, and is another elsewhere.

    [] if it must wait: all that can be reached are heard first.
    """
    waited = damage.waited_ms >= PATIENCE_MS
    ready = {peer for peer, o in damage.offers.items() if covers(journal.vector, o.vector)}
    if not (waited or ready >= set(reachable)):
        return []
    offered = _offered(journal, shelf, damage, entity)
    return [journal.committed.get(entity), *offered] if offered else []


def _replacements(
    journal: Journal,
    shelf: Shelf,
    damage: Damage,
    entity: EntityKey,
) -> list[EntityState | None]:
    """States that may take the place of one that is damaged here; [] if it must wait."""
    offered = _offered(journal, shelf, damage, entity)
    if offered:
        return offered
    for offer in damage.older.values():
        proven = offer.state is not None and fingerprint(entity, offer.state) == damage.right
        if proven and damage.cut is None:
            return _replayed(journal, shelf, entity, offer.state)
    if damage.waited_ms < PATIENCE_MS:
        return []
    alone = damage.kind == MEMORY and damage.cut is None
    stored = shelf.stored(entity) if alone else None
    if stored is not None:
        state = decode(stored, journal.known.rules) if stored else None
        return _replayed(journal, shelf, entity, state)
    waited = damage.waited_ms >= damages.PATIENCE_MS
    members = set(filter(journal.members.holds, journal.life.peers))
    if not (waited and members and damage.older.keys() | damage.helpless >= members):
        return []  # Who is away may have it; an operator may evict who does not come back.
    joined: EntityState | None = None
    for offer in damage.older.values():
        joined = join(joined, offer.state)
    if not damage.detail.endswith(LOST):
        damage.detail += f"; {LOST}"
    return _replayed(journal, shelf, entity, joined)


def _replayed(
    journal: Journal, shelf: Shelf, entity: EntityKey, state: EntityState | None
) -> list[EntityState | None]:
    """A state with all that the journal has beyond what is stored, as in recovery."""
    try:
        return [_brought_up(journal, shelf, entity, Offer(shelf.flushed(), state))]
    except HistoryTruncated:
        return []  # A frame is missing too, and comes from a peer.


def _offered(
    journal: Journal, shelf: Shelf, damage: Damage, entity: EntityKey
) -> list[EntityState | None]:
    """What peers offer that are not ahead, brought up to the vector here."""
    states: list[EntityState | None] = []
    for peer, offer in sorted(damage.offers.items()):
        if not covers(journal.vector, offer.vector):
            continue
        try:
            states.append(_brought_up(journal, shelf, entity, offer))
        except HistoryTruncated:
            del damage.offers[peer]  # It is asked again.
            if damage.cut is not None and not covers(offer.vector, damage.cut):
                damage.behind[peer] += 1
                if damage.behind[peer] < damages.MOST_BEHIND:
                    continue
            damage.older[peer] = offer
    return states


def _brought_up(
    journal: Journal, shelf: Shelf, entity: EntityKey, offer: Offer
) -> EntityState | None:
    """A peer's state with all that is committed here beyond its vector.

    Raises `HistoryTruncated` if the journal does not reach back so far.
    """
    state = offer.state
    for origin, end in journal.vector.items():
        at = offer.vector.get(origin, 0)
        while at < end:
            frames = shelf.after(origin, at, _READ_BYTES)
            if not frames or frames[0].first > at + 1:
                raise HistoryTruncated(f"{origin} is not held after {at}")
            for stored in frames:
                at = stored.last
                # What lies beyond is stored and not visible yet.
                if stored.last <= end:
                    for change in parse(stored.body, stored.hash, journal.known).changes:
                        if change.entity == entity:
                            state = join(state, from_change(change))
    return state
