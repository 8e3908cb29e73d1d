"""What a sidecar's Envoy says it runs, for a report: digests, and texts of what was asked for."""

from __future__ import annotations

import asyncio
import json

from isthmus.mesh.v1 import sidecars_pb2 as pb

from mesh.agent import admin
from mesh.place import Place

_MOST_TEXT = 2 << 20
"""Bytes of text in one report, which must fit into a request."""


async def inspect(place: Place, order: pb.InspectionOrder) -> pb.RunningConfiguration:
    """Asks Envoy, and answers the order."""
    from mesh.envoy.running import CONFIG_PAGE, RUNTIME_PAGE

    try:
        pages = [await admin.get(place.admin_socket, page) for page in (CONFIG_PAGE, RUNTIME_PAGE)]
        # A dump is some hundred kilobytes, and many sidecars share one agent's loop.
        return await asyncio.to_thread(_answer, place, order, *pages)
    except (admin.AdminUnreachable, ValueError, LookupError, TypeError) as error:
        return pb.RunningConfiguration(
            id=order.id, problem=f"Envoy does not say what it runs: {error}"
        )


def _answer(
    place: Place, order: pb.InspectionOrder, config: bytes, runtime: bytes
) -> pb.RunningConfiguration:
    from mesh.envoy.running import running

    wanted = {(each.type_url, each.name) for each in order.texts}
    answer, left = pb.RunningConfiguration(id=order.id), _MOST_TEXT
    for each in running(json.loads(config), json.loads(runtime), place):
        added = answer.resources.add(type_url=each.type_url, name=each.name, digest=each.digest)
        if (each.type_url, each.name) in wanted and len(each.text.encode()) <= left:
            added.text = each.text
            left -= len(each.text.encode())
    return answer
