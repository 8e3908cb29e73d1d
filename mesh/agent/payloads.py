"""Holds what was said in a sidecar's last calls, while a tap asks for it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path

from mesh.agent import admin
from mesh.contracts.model import Contract
from mesh.contracts.payloads import shown
from mesh.envoy.traces import PAGE, Payload, Traces, order

MOST_HELD = 8 << 20
"""Bytes of bodies whose calls are not in the log yet."""

_AGAIN = 0.2


class Payloads:
    """The bodies that came, by request id; the oldest go when they are too many."""

    def __init__(self, contract: Contract, socket: Path) -> None:
        self._types = {m.path: (m.request, m.response) for m in contract.methods()}
        self._socket = socket
        self._held: OrderedDict[str, Payload] = OrderedDict()
        self._bytes = 0

    async def follow(self, paths: Collection[str]) -> None:
        """Gets calls of these paths, or of all, until it is cancelled."""
        while True:
            traces = Traces()
            try:
                async for text in admin.stream(self._socket, PAGE, order(paths)):
                    for id, payload in traces.feed(text):
                        self._hold(id, payload)
            except admin.AdminUnreachable:
                pass  # it begins anew, or still serves a tap that has ended
            await asyncio.sleep(_AGAIN)

    def take(self, id: str, path: str) -> tuple[list[str], list[str], bool]:
        """What was asked and answered in a call, as JSON, and whether anything is missing."""
        payload, types = self._held.pop(id, None), self._types.get(path)
        if payload is None or types is None:
            return [], [], True
        self._bytes -= _size(payload)
        (asked, asked_all), (answered, answered_all) = (
            shown(type_name, body)
            for type_name, body in zip(types, (payload.request, payload.response), strict=True)
        )
        return asked, answered, payload.cut or not (asked_all and answered_all)

    def _hold(self, id: str, payload: Payload) -> None:
        before = self._held.pop(id, None)
        if before is not None:
            self._bytes -= _size(before)
        self._held[id] = payload
        self._bytes += _size(payload)
        while self._bytes > MOST_HELD:
            _, oldest = self._held.popitem(last=False)
            self._bytes -= _size(oldest)


def _size(payload: Payload) -> int:
    return len(payload.request) + len(payload.response) + len(payload.path)
