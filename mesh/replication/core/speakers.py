"""Which process speaks for each peer region: two at once are a region's name used twice.

A copied store, a machine brought back beside its replacement: each process would go on with the
same origin, and what one of them wrote would be lost. So the one that came first is believed for as
long as it is heard, and the other's links are refused. It then cannot confirm its tail, and writes,
if at all, under an incarnation of its own.
"""

from __future__ import annotations

from mesh.replication.core.errors import RegionClaimedTwice

LIVE_MS = 3000
"""A stream on which nothing came for so long says nothing any more; heartbeats come each second."""


class Speakers:
    """The open streams by region: by whom, and when something came. Times are of the wall clock."""

    def __init__(self) -> None:
        self._streams: dict[str, dict[object, tuple[int, int]]] = {}

    def heard(self, region: str, stream: object, process: int, now_ms: int) -> None:
        """Something came on a stream from a process that claims to be the region.

        Raises `RegionClaimedTwice` if another one is heard too. A process of 0 claims nothing.
        """
        if not process:
            return
        streams = self._streams.setdefault(region, {})
        if stream not in streams:
            for other, heard_ms in streams.values():
                if other != process and abs(now_ms - heard_ms) <= LIVE_MS:
                    raise RegionClaimedTwice(
                        f"two processes claim to be {region}: {process:016x} came while "
                        f"{other:016x} is heard"
                    )
        streams[stream] = process, now_ms

    def ended(self, region: str, stream: object) -> None:
        """A stream is over."""
        self._streams.get(region, {}).pop(stream, None)
