"""Who encodes which channel: one region's decisions, as a pure function of what it sees.

The rules are in docs/design/live-media.md. `plan` is run again and again; in a world that stands
still its decisions lead to a world in which it decides nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from isthmus.channels.v1.channel_pb2 import (
    ASSIGNMENT_REASON_DEVICE_LOST,
    ASSIGNMENT_REASON_MAINTENANCE,
    ASSIGNMENT_REASON_REGION_LOST,
    ASSIGNMENT_REASON_STANDBY_CHANGED,
    ASSIGNMENT_REASON_STARTED,
    ASSIGNMENT_REASON_STOPPED,
    INTENT_ON_AIR,
    Assignment,
    AssignmentReason,
    Channel,
)
from isthmus.devices.v1.device_pb2 import DUTY_ACTIVE, DUTY_MAINTENANCE, Device


@dataclass(frozen=True)
class Patience:
    """How long silence lasts before it counts as loss, in milliseconds.

    An ended session waits a little for the device to come back through another edge. A device
    behind a silent region is given up sooner than the region's decisions are.
    """

    session_ms: int = 1_000
    gateway_ms: int = 3_000
    region_ms: int = 4_000


@dataclass(frozen=True)
class World:
    """What one region sees.

    `ring` holds all regions in failover order from any of them. `silent` and `gateways_silent` say
    since when (milliseconds since 1970) the channels' and the devices' group do not hear a region;
    a region that is heard is in neither. `ended` says since when a device's session is seen ended.
    """

    region: str
    ring: Sequence[str]
    now_ms: int
    channels: Sequence[Channel]
    devices: Sequence[Device]
    silent: Mapping[str, int] = field(default_factory=dict)
    gateways_silent: Mapping[str, int] = field(default_factory=dict)
    ended: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """A new assignment for a channel whose assignment was `base`."""

    channel_id: str
    base: Assignment
    assignment: Assignment

    @property
    def moves(self) -> bool:
        """Whether the picture goes from one device to another."""
        return bool(
            self.base.device_id
            and self.assignment.device_id
            and self.base.device_id != self.assignment.device_id
        )


@dataclass(frozen=True)
class Plan:
    """What to write, and what cannot be done now: a sentence for each such channel."""

    decisions: tuple[Decision, ...] = ()
    waiting: Mapping[str, str] = field(default_factory=dict)


def decider(channel: Channel, world: World, patience: Patience) -> str:
    """The region that decides about a channel, as `world.region` sees it.

    The region that decided last goes on while the channel runs, so that one that returns takes
    nothing back; a channel without an encoder is its home's. If that region is lost, the first one
    after it in failover order that is not lost decides.
    """
    assignment = channel.assignment
    first = assignment.region if assignment.device_id else channel.home_region
    for region in _from(first, world.ring):
        if region == world.region or not _lost_region(region, world, patience):
            return region
    return world.region


def plan(world: World, patience: Patience | None = None) -> Plan:
    """The decisions of `world.region`."""
    return _Planner(world, patience or Patience()).plan()


def _from(first: str, ring: Sequence[str]) -> Sequence[str]:
    if first not in ring:
        return ring
    at = list(ring).index(first)
    return [*ring[at:], *ring[:at]]


def _lost_region(region: str, world: World, patience: Patience) -> bool:
    since = world.silent.get(region)
    return since is not None and world.now_ms - since >= patience.region_ms


class _Planner:
    """One run of `plan`: counts the load as it decides."""

    def __init__(self, world: World, patience: Patience) -> None:
        self._world = world
        self._patience = patience
        self._devices = {device.device_id: device for device in world.devices}
        running = [channel for channel in world.channels if channel.intent == INTENT_ON_AIR]
        self._active = Counter(c.assignment.device_id for c in running if c.assignment.device_id)
        self._standby = Counter(
            c.assignment.standby_device_id for c in running if c.assignment.standby_device_id
        )
        self._waiting: dict[str, str] = {}

    def plan(self) -> Plan:
        own = [
            channel
            for channel in sorted(self._world.channels, key=lambda c: c.channel_id)
            if decider(channel, self._world, self._patience) == self._world.region
        ]
        # Encoders before standbys: pictures first.
        decided: dict[str, Assignment] = {}
        for channel in own:
            assignment = self._encoder(channel)
            if assignment is not None:
                decided[channel.channel_id] = assignment
        for channel in own:
            if channel.intent != INTENT_ON_AIR:
                continue
            assignment = decided.get(channel.channel_id, channel.assignment)
            changed = self._with_standby(channel, assignment)
            if changed is not None:
                decided[channel.channel_id] = changed
        return Plan(tuple(self._decisions(own, decided)), dict(self._waiting))

    def _decisions(
        self, own: Sequence[Channel], decided: Mapping[str, Assignment]
    ) -> Iterator[Decision]:
        for channel in own:
            assignment = decided.get(channel.channel_id)
            if assignment is None:
                continue
            result = Assignment()
            result.CopyFrom(assignment)
            base = channel.assignment
            result.epoch = base.epoch + 1 if base.epoch else self._world.now_ms
            result.region = self._world.region
            yield Decision(channel.channel_id, base, result)

    def _encoder(self, channel: Channel) -> Assignment | None:
        """The assignment if the encoder changes, or the region that answers for it."""
        current = channel.assignment
        if channel.intent != INTENT_ON_AIR:
            if not current.device_id:
                return None
            return Assignment(
                reason=ASSIGNMENT_REASON_STOPPED, previous_device_id=current.device_id
            )
        if not current.device_id:
            chosen = self._choose(channel, exclude="")
            if chosen is None:
                self._waiting[channel.channel_id] = "no device can be had for it"
                return None
            self._move(channel, chosen)
            return Assignment(device_id=chosen, reason=ASSIGNMENT_REASON_STARTED)
        adopted = current.region != self._world.region
        device = self._devices.get(current.device_id)
        if device is None or self._is_lost(device):
            reason = ASSIGNMENT_REASON_REGION_LOST if adopted else ASSIGNMENT_REASON_DEVICE_LOST
            moved = self._succeed(channel, reason)
            if moved is None:
                # The lost one may still encode, out of our sight: do not take its channel away.
                self._waiting[channel.channel_id] = (
                    f"{current.device_id} is lost and no other device can be had"
                )
            return moved
        if device.duty == DUTY_MAINTENANCE:
            if channel.pinned:
                self._waiting[channel.channel_id] = (
                    f"pinned: it stays on {current.device_id}, whose maintenance waits"
                )
            else:
                reason = ASSIGNMENT_REASON_REGION_LOST if adopted else ASSIGNMENT_REASON_MAINTENANCE
                moved = self._succeed(channel, reason)
                if moved is not None:
                    return moved
                self._waiting[channel.channel_id] = (
                    f"no device can be had to relieve {current.device_id} for maintenance"
                )
        if adopted:
            return Assignment(
                device_id=current.device_id,
                standby_device_id=current.standby_device_id,
                reason=ASSIGNMENT_REASON_REGION_LOST,
                previous_device_id=current.previous_device_id,
            )
        return None

    def _succeed(self, channel: Channel, reason: AssignmentReason.ValueType) -> Assignment | None:
        """The standby takes over, or else the best device that is free."""
        current = channel.assignment
        standby = self._devices.get(current.standby_device_id)
        if (
            standby is not None
            and self._is_usable(standby)
            and self._active[standby.device_id] < standby.capacity
        ):
            chosen: str | None = standby.device_id
        else:
            chosen = self._choose(channel, exclude=current.device_id)
        if chosen is None:
            return None
        self._move(channel, chosen)
        return Assignment(
            device_id=chosen,
            standby_device_id=""
            if chosen == current.standby_device_id
            else current.standby_device_id,
            reason=reason,
            previous_device_id=current.device_id,
        )

    def _move(self, channel: Channel, device_id: str) -> None:
        current = channel.assignment
        if current.device_id:
            self._active[current.device_id] -= 1
        if device_id == current.standby_device_id:
            self._standby[device_id] -= 1
        self._active[device_id] += 1

    def _with_standby(self, channel: Channel, assignment: Assignment) -> Assignment | None:
        """The assignment with another standby, None if the one it has is right."""
        if not assignment.device_id:
            return None
        current = assignment.standby_device_id
        if current and self._may_stand_by(current, assignment.device_id):
            return None
        if current:
            self._standby[current] -= 1
        chosen = self._choose(channel, exclude=assignment.device_id, near=assignment.device_id)
        if chosen is not None and not self._has_room(self._devices[chosen]):
            # Only pictures may use what is reserved for other standbys.
            chosen = None
        if chosen is not None:
            self._standby[chosen] += 1
        if (chosen or "") == current:
            return None
        changed = Assignment()
        changed.CopyFrom(assignment)
        changed.standby_device_id = chosen or ""
        if assignment == channel.assignment:
            changed.reason = ASSIGNMENT_REASON_STANDBY_CHANGED
        return changed

    def _may_stand_by(self, device_id: str, encoder_id: str) -> bool:
        device = self._devices.get(device_id)
        return (
            device is not None
            and device_id != encoder_id
            and device.duty == DUTY_ACTIVE
            and not self._is_lost(device)
            and self._active[device_id] + self._standby[device_id] <= device.capacity
        )

    def _choose(self, channel: Channel, exclude: str, near: str = "") -> str | None:
        """The best device: with room to spare, then by region, load, and a hash that spreads."""
        order = list(_from(channel.home_region, self._world.ring))
        neighbour = self._devices.get(near)
        if neighbour is not None and neighbour.region in order:
            order.remove(neighbour.region)
            order.insert(0, neighbour.region)

        def rank(device: Device) -> tuple[bool, int, int, bytes]:
            place = order.index(device.region) if device.region in order else len(order)
            load = self._active[device.device_id] + self._standby[device.device_id]
            spread = hashlib.blake2b(
                f"{channel.channel_id}/{device.device_id}".encode(), digest_size=8
            )
            return (not self._has_room(device), place, load, spread.digest())

        usable = [
            device
            for device in self._world.devices
            if device.device_id != exclude
            and self._is_usable(device)
            and self._active[device.device_id] < device.capacity
        ]
        return min(usable, key=rank).device_id if usable else None

    def _has_room(self, device: Device) -> bool:
        load = self._active[device.device_id] + self._standby[device.device_id]
        return load < device.capacity

    def _is_usable(self, device: Device) -> bool:
        """Whether it can be given something now."""
        session = device.session
        return (
            device.duty == DUTY_ACTIVE
            and session.epoch > 0
            and session.connected_rank == 0
            and session.gateway_region not in self._world.gateways_silent
        )

    def _is_lost(self, device: Device) -> bool:
        """Whether to stop waiting for it."""
        session, now = device.session, self._world.now_ms
        if not session.epoch:
            return True
        if session.connected_rank:
            return now - self._world.ended.get(device.device_id, now) >= self._patience.session_ms
        silent = self._world.gateways_silent.get(session.gateway_region)
        return silent is not None and now - silent >= self._patience.gateway_ms
