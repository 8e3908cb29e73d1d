"""What a gateway knows of the channels, and so has to say to each device. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from isthmus.channels.v1.channel_pb2 import Channel
from isthmus.devices.v1.device_pb2 import Device

from mesh.replication import Batch, Reach, ReachChanged, Snapshot, View, WatchEvent
from services.devices.domain import UNKNOWN_MS, Handover, Order, handover_of, handover_over
from services.devices.session import Session


class Desk:
    """Follows the channels' feed. Before its first snapshot it has nothing to say.

    `device` looks up a device as the store has it.
    """

    def __init__(self, device: Callable[[str], Device | None]) -> None:
        self._device = device
        self._channels: dict[str, Channel] | None = None
        self._reach: Mapping[str, Reach] = {}
        self._gone: set[str] = set()
        self._unknown_since: dict[str, int] = {}
        self._handovers: dict[str, Handover] = {}

    @property
    def hands_over(self) -> bool:
        """Whether some device waits for its successor."""
        return bool(self._handovers)

    def channels_event(self, event: WatchEvent, now_ms: int) -> None:
        """Takes a message of the feed."""
        match event:
            case Snapshot():
                self._channels, self._reach = {}, event.reach
                for view in event.entities:
                    self._learn(self._channels, view, now_ms)
            case Batch():
                if self._channels is not None:
                    for change in event.changes:
                        self._learn(self._channels, change.new, now_ms)
            case ReachChanged():
                self._reach = event.reach

    def due(self, session: Session, now_ms: int) -> list[Order]:
        """What to tell a device now; counts as told."""
        if self._channels is None:
            return []
        self._end_handovers(self._channels, now_ms)
        spared = frozenset(
            handover.channel_id
            for handover in self._handovers.values()
            if handover.device_id == session.device_id
        )
        gone = self._gone | self._long_unknown(session, self._channels, now_ms)
        return session.due(self._channels, frozenset(gone), spared, now_ms)

    def _learn(self, channels: dict[str, Channel], view: View, now_ms: int) -> None:
        channel = view.message
        if view.deleted:
            channels.pop(view.key, None)
            self._gone.add(view.key)
        elif isinstance(channel, Channel):
            before = channels.get(view.key)
            channels[view.key] = channel
            self._gone.discard(view.key)
            if before is None or before.assignment != channel.assignment:
                handover = handover_of(channel, now_ms)
                if handover is not None:
                    self._handovers[view.key] = handover

    def _long_unknown(
        self, session: Session, channels: Mapping[str, Channel], now_ms: int
    ) -> set[str]:
        """Channels that the device encodes and no region tells of: deleted while it was away."""
        heard = all(reach.reachable for reach in self._reach.values())
        found = set()
        for channel_id in {e.channel_id for e in session.encodings.encodings}:
            if channel_id in channels or not heard:
                self._unknown_since.pop(channel_id, None)
            elif now_ms - self._unknown_since.setdefault(channel_id, now_ms) >= UNKNOWN_MS:
                found.add(channel_id)
        return found

    def _end_handovers(self, channels: Mapping[str, Channel], now_ms: int) -> None:
        for channel_id, handover in list(self._handovers.items()):
            channel = channels.get(channel_id)
            if channel is None or handover_over(
                handover, channel.assignment, self._device(handover.successor), now_ms
            ):
                del self._handovers[channel_id]
