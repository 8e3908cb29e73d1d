"""Recovery: what a store held, brought up to the end of its journal.

State is flushed behind the journal, so a store holds states of different ages. Joining is
idempotent: replaying every frame above the watermark over them gives what was committed last.

Where a frame above the watermark is damaged or missing, the journal is cut before it: what came
later may depend on it. Peers give back what they have; frames behind the cut that are whole are
loose, and are taken again, as if they came from a peer, once what they depend on is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from mesh.replication.core import entities, generations, parked
from mesh.replication.core.batches import Recovered
from mesh.replication.core.clocks import Origin
from mesh.replication.core.entities import EntityKey
from mesh.replication.core.errors import FormatUnknown, JournalDamaged, LinkFault
from mesh.replication.core.frames import StoredFrame, chain, parse
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


class _End(NamedTuple):
    """How far an origin was replayed; the clock is None where nothing was."""

    sequence: int
    hash: bytes
    clock: int | None = None
    signature: bytes = b""


FrameAt = Callable[[Origin, int], StoredFrame | None]
"""The frame of an origin that ends at a sequence number, if it is held."""


def recover(
    states: Iterable[tuple[EntityKey, bytes, bytes]],
    positions: Mapping[Origin, Position],
    frames: Iterable[StoredFrame],
    frame_at: FrameAt,
    known: Known = KNOWN,
) -> Recovered:
    """The group's state at the journal's end, or where it is cut.

    `states` are canonical bytes as flushed, with their checksums; those that are damaged are left
    out and named. `frames` are those above the watermarks, in the order of their commits (others
    among them are passed over). What an older version parked is done if it is `known` by now.
    Raises `FormatUnknown` for frames of a newer format, and `JournalDamaged` if it cannot be told
    what was where the journal is cut.
    """
    recovered = Recovered()
    unread = set()
    for entity, data, hash in states:
        if entities.checksum(entity, data) != hash:
            recovered.damaged[entity] = int.from_bytes(hash, "big")
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
    reached = _replay(recovered, positions, frames, known)
    if recovered.cut:
        _set_back(recovered, positions, reached, frame_at, known)
    resumed, recovered.gone = parked.resume(recovered.states, known)
    # What was parked may have become a cell of its rule, which is not stored as such yet.
    recovered.replayed |= resumed | unread
    for entity in resumed:
        recovered.fingerprints.pop(entity, None)
    recovered.replayed -= recovered.gone
    waiting = (recovered.parked | unread | resumed) - recovered.gone
    # Of what ended, and is forgotten by now, there is no state that holds anything.
    recovered.parked = {
        each
        for each in waiting
        if (state := recovered.states.get(each)) is not None and parked.holds(state)
    }
    return recovered


def _replay(
    recovered: Recovered,
    positions: Mapping[Origin, Position],
    frames: Iterable[StoredFrame],
    known: Known,
) -> dict[Origin, _End]:
    """Applies frames up to the journal's end, or to where it is cut. Returns where that is."""
    reached = {
        o: _End(position.flushed, position.flushed_hash) for o, position in positions.items()
    }
    for stored in frames:
        origin = stored.origin
        if origin in positions and stored.last <= positions[origin].flushed:
            continue
        if origin not in positions or stored.last > positions[origin].sequence or recovered.cut:
            recovered.loose.append(stored)
            continue
        end = reached[origin]
        if stored.first != end.sequence + 1 or chain(end.hash, stored.body) != stored.hash:
            recovered.cut.append((origin, end.sequence + 1))
            recovered.loose.append(stored)  # it may be the one before it that is missing
            continue
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
        reached[origin] = _End(stored.last, stored.hash, frame.newest, stored.signature)
    if not recovered.cut:
        short = {o: end for o, end in reached.items() if end.sequence < positions[o].sequence}
        recovered.cut.extend((origin, end.sequence + 1) for origin, end in short.items())
    return reached


def _set_back(
    recovered: Recovered,
    positions: Mapping[Origin, Position],
    reached: Mapping[Origin, _End],
    frame_at: FrameAt,
    known: Known,
) -> None:
    """The journal ends where it is cut."""
    for origin, end in reached.items():
        if end.sequence == positions[origin].sequence:
            continue
        if not end.sequence:
            for part in (recovered.vector, recovered.clocks):
                del part[origin]
            for told in (recovered.heads, recovered.signatures):
                del told[origin]
            continue
        clock, signature = end.clock, end.signature
        if clock is None:
            # Nothing above the watermark is left.
            clock, signature = _flushed(origin, end, frame_at(origin, end.sequence), known)
        recovered.vector[origin] = end.sequence
        recovered.heads[origin] = end.hash
        recovered.clocks[origin] = clock
        recovered.signatures[origin] = signature


def _flushed(
    origin: Origin, end: _End, stored: StoredFrame | None, known: Known
) -> tuple[int, bytes]:
    """The clock and the signature of the frame at the watermark."""
    if stored is None or stored.hash != end.hash:
        raise JournalDamaged(f"the journal of {origin} is damaged at {end.sequence}")
    try:
        return parse(stored.body, stored.hash, known).newest, stored.signature
    except LinkFault as fault:
        raise JournalDamaged(f"the journal of {origin} is damaged: {fault}") from None
