"""Changes that come through a third region, over real gRPC."""

from __future__ import annotations

import asyncio
from pathlib import Path

from isthmus.channels.v1 import channel_pb2
from isthmus.replication.v1 import frame_pb2

from mesh.replication import Group
from mesh.replication.core.clocks import Origin
from mesh.replication.core.frames import GENESIS, StoredFrame, chain
from tests.support.regions import contract
from tests.support.signing import MemorySigning
from tests.unit.replication.test_group_links import Region, equal, until

Channel = channel_pb2.Channel


class LyingLog:
    """A journal whose owner changes what `region` wrote, and chains it anew."""

    def __init__(self, group: Group, region: str) -> None:
        self._true = group.log
        self._region = region

    def after(self, origin: Origin, sequence: int, most_bytes: int) -> list[StoredFrame]:
        frames = self._true.after(origin, sequence, most_bytes)
        if origin.region != self._region:
            return frames
        head = self._true.after(origin, sequence - 1, 0)[0].hash if sequence else GENESIS
        altered = []
        for frame in frames:
            body = frame_pb2.FrameBody.FromString(frame.body)
            body.keys[0] = f"forged-{body.keys[0]}"
            data = body.SerializeToString(deterministic=True)
            head = chain(head, data)
            altered.append(frame._replace(body=data, hash=head))
        return altered


async def test_a_lying_relay_is_refused_and_another_brings_the_truth(tmp_path: Path) -> None:
    names = ("ap", "eu", "sa", "us")
    found = {name: Region(name, tmp_path, tuple(n for n in names if n != name)) for name in names}
    eu, us = found["eu"], found["us"]
    # The honest relay is not to be had at first.
    us.cut_off = {"eu", "sa"}
    eu.cut_off = {"us"}
    await asyncio.gather(*(found[name].start() for name in ("ap", "eu", "sa")))
    try:
        # Before anybody follows it: a stream keeps the log that it began with.
        found["ap"].group.tail = LyingLog(found["ap"].group, "eu")  # type: ignore[assignment]
        await us.start()
        await eu.title("c1", "true")
        await until(lambda: equal(eu, found["ap"]), 40)

        def refused() -> bool:
            (link,) = (link for link in us.group.status().links if link.peer == "ap")
            return "its origin did not sign" in link.last_error

        await until(refused, 40)
        assert us.group.list(Channel) == []
        us.cut_off = {"eu"}
        await us.stop()
        await us.start()
        await until(lambda: equal(eu, us), 40)
        assert [c.channel_id for c in us.group.list(Channel)] == ["c1"]
        assert us.group.changes_applied == 1
    finally:
        await asyncio.gather(*(region.stop() for region in found.values()))


async def test_what_was_signed_before_a_restart_is_relayed_after_it(tmp_path: Path) -> None:
    """Signatures lie with the frames, keys beside them; the origin need not live any more."""
    names = ("ap", "eu", "us")
    ap, eu, us = (Region(name, tmp_path, tuple(n for n in names if n != name)) for name in names)
    await asyncio.gather(ap.start(), eu.start())
    try:
        await eu.title("c1", "one")
        await until(lambda: equal(ap, eu))
    finally:
        await asyncio.gather(ap.stop(), eu.stop())
    await asyncio.gather(ap.start(), us.start())
    try:
        await until(lambda: equal(ap, us), 40)
        assert us.group.get(Channel, "c1").title == "one"
    finally:
        await asyncio.gather(ap.stop(), us.stop())


async def test_a_group_without_signing_takes_nothing_relayed(tmp_path: Path) -> None:
    names = ("ap", "eu", "us")
    ap, eu, us = (Region(name, tmp_path, tuple(n for n in names if n != name)) for name in names)
    us.signing, us.cut_off, eu.cut_off = None, {"eu"}, {"us"}
    await asyncio.gather(ap.start(), eu.start(), us.start())
    try:
        await eu.title("c1", "one")
        await until(lambda: equal(ap, eu))

        def held() -> int:
            follower = us.group._links._followers["ap"]
            return sum(len(list(s._receiver.relayed)) for s in follower._streams)

        await until(lambda: held() == 1, 40)
        assert us.group.list(Channel) == []
        us.cut_off = set()
        await us.stop()
        await us.start()
        await until(lambda: equal(ap, eu, us), 40)
    finally:
        await asyncio.gather(*(region.stop() for region in (ap, eu, us)))


async def test_an_own_key_is_stored_with_what_it_signed(tmp_path: Path) -> None:
    group = await Group.open(
        contract(),
        "channels",
        region="eu",
        peers=["us"],
        folder=tmp_path,
        signing=MemorySigning("eu"),
    )
    try:
        region = Region("eu", tmp_path, ("us",))
        region.group = group
        await region.title("c1", "one")
        (frame,) = group.log.after(group.journal.origin, 0, 1 << 20)
        assert group.journal.signatures == {group.journal.origin: frame.signature}
        assert group.journal.keys.statement(frame.signature) and not group.journal.keys.unstored
        recovered = group._store.recover()
        assert recovered.signatures == group.journal.signatures
        assert recovered.keys == [group.journal.keys.statement(frame.signature)]
    finally:
        await group.close()
