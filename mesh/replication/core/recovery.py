"""Recovery: what a store held, brought up to the end of its journal.

State is flushed behind the journal, so a store holds states of different ages. Joining is
idempotent: replaying every frame above the watermark over them gives what was committed last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mesh.replication.core import entities, generations, parked
from mesh.replication.core.clocks import Origin
from mesh.replication.core.entities import EntityKey
from mesh.replication.core.errors import FormatUnknown, JournalDamaged, LinkFault
from mesh.replication.core.frames import StoredFrame, chain, parse
from mesh.replication.core.journal import Recovered
from mesh.replication.core.parked import KNOWN, Known


class Position(NamedTuple):
    """How far an origin's journal reaches, and the watermark up to which states are flushed.

    `hash` is the chain's at `sequence`, `flushed_hash` at `flushed`; both of `GENESIS` at 0.
    `clock` is that of the change at `sequence`, `signature` that of the frame which ends there.
    """

    sequence: int
    hash: bytes
    flushed: int
    flushed_hash: bytes
    clock: int = 0
    signature: bytes = b""


def recover(
    states: Iterable[tuple[EntityKey, bytes, bytes]],
    positions: Mapping[Origin, Position],
    frames: Iterable[StoredFrame],
    known: Known = KNOWN,
) -> Recovered:
    """The group's state at the journal's end.

    `states` are canonical bytes as flushed, with their checksums; those that are damaged are left
    out and named. `frames` are those above the watermarks, in the order of their commits (others
    among them are passed over). What an older version parked is done if it is `known` by now.
    Raises `FormatUnknown` for frames of a newer format, and `JournalDamaged`.
    """
    recovered = Recovered()
    unread = set()
    for entity, data, hash in states:
        if entities.checksum(entity, data) != hash:
            recovered.damaged[entity] = "its stored state is not what its checksum says"
            continue
        recovered.states[entity], some = entities.read(data, known.rules)
        if some:
            unread.add(entity)
        else:
            recovered.fingerprints[entity] = int.from_bytes(hash, "big")
    if recovered.states:
        recovered.clock = max(state.changed.clock for state in recovered.states.values())
    for origin, position in positions.items():
        recovered.vector[origin] = position.sequence
        recovered.heads[origin] = position.hash
        recovered.clocks[origin] = position.clock
        recovered.clock = max(recovered.clock, position.clock)
        recovered.signatures[origin] = position.signature
    _replay(recovered, positions, frames, known)
    resumed, recovered.gone = parked.resume(recovered.states, known)
    # What was parked may have become a cell of its rule, which is not stored as such yet.
    recovered.replayed |= resumed | unread
    for entity in resumed:
        recovered.fingerprints.pop(entity, None)
    recovered.replayed -= recovered.gone
    waiting = (recovered.parked | unread | resumed) - recovered.gone
    recovered.parked = {each for each in waiting if parked.holds(recovered.states[each])}
    return recovered


def _replay(
    recovered: Recovered,
    positions: Mapping[Origin, Position],
    frames: Iterable[StoredFrame],
    known: Known,
) -> None:
    reached = {origin: position.flushed for origin, position in positions.items()}
    heads = {origin: position.flushed_hash for origin, position in positions.items()}
    for stored in frames:
        origin = stored.origin
        if stored.last <= positions[origin].flushed:
            continue
        follows = stored.first == reached[origin] + 1
        if not follows or chain(heads[origin], stored.body) != stored.hash:
            raise JournalDamaged(f"the journal at {stored.place} is damaged")
        try:
            frame = parse(stored.body, stored.hash, known)
        except LinkFault as fault:
            # Its bytes are as they were written.
            raise FormatUnknown(f"the journal at {stored.place}: {fault}") from None
        for change in frame.changes:
            state = recovered.states.get(change.entity)
            damaged = change.entity in recovered.damaged
            if generations.is_void(change.kind, state, change.generation) and not damaged:
                continue
            recovered.states[change.entity] = entities.apply(state, change)
            recovered.replayed.add(change.entity)
            recovered.fingerprints.pop(change.entity, None)
        recovered.parked |= frame.parked
        recovered.clock = max(recovered.clock, frame.newest)
        recovered.clocks[origin] = frame.newest
        reached[origin] = stored.last
        heads[origin] = stored.hash
    if reached != recovered.vector:
        raise JournalDamaged("the journal ends before what it promises")
