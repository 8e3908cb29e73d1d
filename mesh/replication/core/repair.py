"""Repairing entities from what other regions have of them.

A peer's state at its vector, joined with what the journal here holds beyond that vector, is what
this region must have: whatever the peer had not seen is in the journal still.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from mesh.replication.core.clocks import covers
from mesh.replication.core.damage import DIVERGENCE, Damage, Offer
from mesh.replication.core.entities import EntityKey, EntityState, encode, from_change, join
from mesh.replication.core.errors import HistoryTruncated
from mesh.replication.core.frames import FrameLog, parse

if TYPE_CHECKING:
    from mesh.replication.core.batches import Visible
    from mesh.replication.core.journal import Journal

PATIENCE_MS = 3000
"""For so long all reachable peers are waited for before two that differ are joined."""

_READ_BYTES = 1 << 20


def repair(
    journal: Journal, log: FrameLog, reachable: Collection[str], now_ms: int
) -> Iterator[Visible]:
    """Repairs what can be repaired now; gives what becomes visible by each repair."""
    for damage in journal.integrity.damages.open(from_peers=True):
        if damage.entity is None:
            continue  # A frame: the store's business.
        states = _states(journal, log, damage, damage.entity, reachable, now_ms)
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


def _states(
    journal: Journal,
    log: FrameLog,
    damage: Damage,
    entity: EntityKey,
    reachable: Collection[str],
    now_ms: int,
) -> list[EntityState | None]:
    """What regions have of a damaged entity, brought up to the vector here; [] if it must wait.

    The state here counts too if it is what was hashed: then all that can be reached are heard
    first.
    """
    offers = {p: o for p, o in damage.offers.items() if covers(journal.vector, o.vector)}
    states: list[EntityState | None] = []
    if damage.kind == DIVERGENCE:
        waited = not 0 <= now_ms - damage.found_ms < PATIENCE_MS
        if not offers or not (waited or offers.keys() >= set(reachable)):
            return []
        states.append(journal.committed.get(entity))
    for peer, offer in sorted(offers.items()):
        try:
            states.append(_brought_up(journal, log, entity, offer))
        except HistoryTruncated:
            del damage.offers[peer]  # It is asked again.
    if damage.kind == DIVERGENCE and len(states) < 2:
        return []
    return states


def _brought_up(
    journal: Journal, log: FrameLog, entity: EntityKey, offer: Offer
) -> EntityState | None:
    """A peer's state with all that is committed here beyond its vector.

    Raises `HistoryTruncated` if the journal does not reach back so far.
    """
    state = offer.state
    for origin, end in journal.vector.items():
        at = offer.vector.get(origin, 0)
        while at < end:
            frames = log.after(origin, at, _READ_BYTES)
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
