"""What a gateway knows about devices, and what it tells them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isthmus.channels.v1.channel_pb2 import ASSIGNMENT_REASON_MAINTENANCE, Assignment, Channel
from isthmus.devices.v1.device_pb2 import (
    DUTY_ACTIVE,
    ENCODING_STATE_ON_AIR,
    Device,
    Encoding,
    Encodings,
    Session,
)
from isthmus.devices.v1.gateway_pb2 import Fence, Hello, Run

HANDOVER_MS = 10_000
"""How long a planned handover waits for the new encoder to be on air."""

UNKNOWN_MS = 10_000
"""How long a channel must be unknown, with every region heard, before its encoders are stopped."""

Order = Run | Fence


def next_epoch(known: Session, now_ms: int) -> int:
    """A session epoch above the one that is known, though its gateway's clock may be ahead."""
    return max(now_ms, known.epoch + 1)


def introduced(known: Device | None, hello: Hello, enrolled_ms: int) -> tuple[Device, list[str]]:
    """The device that a hello describes, and the paths that differ from what is known."""
    device = Device(
        device_id=hello.device_id,
        region=hello.region,
        model=hello.model,
        capacity=hello.capacity,
        duty=DUTY_ACTIVE,
        location=hello.location,
        enrolled_ms=enrolled_ms,
    )
    before = known or Device()
    plain = ("region", "model", "capacity", "enrolled_ms")
    paths = [path for path in plain if _differs(before, device, path)]
    paths += [
        f"location.{path}"
        for path in ("site", "rack")
        if _differs(before.location, device.location, path)
    ]
    return device, paths


def _differs(one: object, other: object, path: str) -> bool:
    return bool(getattr(one, path) != getattr(other, path))


def tells_news(before: Encodings, after: Encodings) -> bool:
    """Whether a report says more than that time passed: it is then written at once."""
    return _essence(before) != _essence(after)


def _essence(encodings: Encodings) -> list[tuple[object, ...]]:
    return [
        (e.channel_id, e.epoch, e.region, e.state, e.error, e.HasField("gap_seconds"))
        for e in encodings.encodings
    ]


@dataclass(frozen=True)
class Handover:
    """A device that keeps encoding for maintenance's sake until `successor` is on air.

    `epoch` is that of the assignment that began it; `since_ms` when the gateway heard of it.
    """

    channel_id: str
    device_id: str
    successor: str
    epoch: int
    since_ms: int


def handover_of(channel: Channel, now_ms: int) -> Handover | None:
    """The handover that a channel's new assignment begins, if it begins one."""
    assignment = channel.assignment
    if assignment.reason != ASSIGNMENT_REASON_MAINTENANCE or not assignment.previous_device_id:
        return None
    return Handover(
        channel.channel_id,
        assignment.previous_device_id,
        assignment.device_id,
        assignment.epoch,
        now_ms,
    )


def handover_over(
    handover: Handover, assignment: Assignment, successor: Device | None, now_ms: int
) -> bool:
    """Whether the old device need not encode any longer."""
    if assignment.device_id != handover.successor:
        return True
    if now_ms - handover.since_ms >= HANDOVER_MS:
        return True
    return successor is not None and any(
        encoding.channel_id == handover.channel_id
        and encoding.epoch >= handover.epoch
        and encoding.state == ENCODING_STATE_ON_AIR
        for encoding in successor.encodings.encodings
    )


def orders(
    device_id: str,
    encodings: Sequence[Encoding],
    told: Mapping[str, Order],
    channels: Mapping[str, Channel],
    spared: frozenset[str],
) -> list[Order]:
    """Everything that a device should be told, by channel, whether it was told before or not.

    Run for each channel whose highest assignment names it; Fence for each that it encodes, or was
    told to (`told`), whose highest assignment does not. `spared` are channels that it still hands
    over. About channels that are not known here there is nothing to say.
    """
    found: dict[str, Order] = {}
    for channel in channels.values():
        assignment = channel.assignment
        if assignment.device_id == device_id:
            found[channel.channel_id] = Run(
                channel_id=channel.channel_id,
                epoch=assignment.epoch,
                region=assignment.region,
                source=channel.source,
                profile=channel.profile,
                previous_device_id=assignment.previous_device_id,
            )
    concerned = {encoding.channel_id for encoding in encodings} | set(told)
    for channel_id in concerned - set(found) - spared:
        known = channels.get(channel_id)
        if known is not None and known.assignment.epoch:
            found[channel_id] = Fence(
                channel_id=channel_id,
                epoch=known.assignment.epoch,
                region=known.assignment.region,
            )
    return [found[channel_id] for channel_id in sorted(found)]


def fence_of_deleted(encoding: Encoding) -> Fence:
    """Stops an encoding whose channel is gone, below anything that a new channel starts with."""
    return Fence(channel_id=encoding.channel_id, epoch=encoding.epoch + 1, region=encoding.region)


def is_obeyed(order: Order, encodings: Sequence[Encoding]) -> bool:
    """Whether a device's report agrees with an order."""
    mine = [e for e in encodings if e.channel_id == order.channel_id]
    if isinstance(order, Run):
        return any((e.epoch, e.region) == (order.epoch, order.region) for e in mine)
    return not any((e.epoch, e.region) < (order.epoch, order.region) for e in mine)
