"""One device's stream, as its gateway keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from isthmus.channels.v1.channel_pb2 import Channel
from isthmus.devices.v1.device_pb2 import Encodings
from isthmus.devices.v1.gateway_pb2 import Fence, Report

from mesh.replication import WriteContext
from mesh.runtime import RpcError
from services.devices.domain import Order, fence_of_deleted, is_obeyed, orders, tells_news

STORE_MS = 5_000
"""What a device reports is written after this even if it says nothing new."""

REPEAT_MS = 1_000
"""An order that the device's reports contradict is given again after this."""


class Session:
    """A connected device: what it reported, and what it was told.

    `wake` is set when there may be something to say, `reported` when there may be something to
    write: `encodings`, and `restarts` since the last writing. Times are milliseconds of one clock.
    """

    def __init__(self, device_id: str, epoch: int, context: WriteContext, now_ms: int) -> None:
        self.device_id = device_id
        self.epoch = epoch
        self.context = context
        self.heard_ms = now_ms
        self.encodings = Encodings()
        self.restarts = 0
        self.reported = asyncio.Event()
        self.stored = Encodings()
        self.stored_ms = now_ms
        self.wake = asyncio.Event()
        self.ending: RpcError | None = None
        self._told: dict[str, tuple[Order, int]] = {}

    def heard(self, report: Report, now_ms: int) -> None:
        """Takes a report."""
        self.heard_ms = now_ms
        self.encodings = report.encodings
        self.restarts += report.encoder_restarts
        self.reported.set()
        self.wake.set()

    def take_restarts(self) -> int:
        """The restarts that were reported and are not written yet; they count as written."""
        taken, self.restarts = self.restarts, 0
        return taken

    def tells_news(self, now_ms: int) -> bool:
        """Whether what was reported is to be written."""
        return (
            self.restarts > 0
            or now_ms - self.stored_ms >= STORE_MS
            or tells_news(self.stored, self.encodings)
        )

    def end(self, reason: RpcError) -> None:
        """Ends the stream with this status, unless it ends already."""
        self.ending = self.ending or reason
        self.wake.set()

    def due(
        self,
        channels: Mapping[str, Channel],
        gone: frozenset[str],
        spared: frozenset[str],
        now_ms: int,
    ) -> list[Order]:
        """What to tell the device now; counts as told.

        `gone` are channels known to be deleted, `spared` those that the device still hands over.
        """
        encodings = self.encodings.encodings
        told = {channel_id: order for channel_id, (order, _) in self._told.items()}
        wanted = orders(self.device_id, encodings, told, channels, spared)
        wanted += [fence_of_deleted(e) for e in encodings if e.channel_id in gone]
        due = []
        for order in wanted:
            before, at = self._told.get(order.channel_id, (None, 0))
            obeyed = is_obeyed(order, encodings)
            if order != before or (not obeyed and now_ms - at >= REPEAT_MS):
                self._told[order.channel_id] = (order, now_ms)
                due.append(order)
            elif isinstance(order, Fence) and obeyed:
                # It stopped: there is nothing more to remember.
                del self._told[order.channel_id]
        return due
