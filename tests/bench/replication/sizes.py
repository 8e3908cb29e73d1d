"""How large the tokens are that clients carry, by regions, groups, and who writes when."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from isthmus.channels.v1 import channel_pb2

from mesh.replication import Transaction
from mesh.replication.core import tokens
from mesh.replication.core.clocks import Origin, Vector
from tests.bench.replication.options import Options
from tests.bench.rows import Row, row
from tests.support.regions import World

REGIONS = (3, 10, 30)
GROUPS = (1, 4)
INCARNATION = 1_795_000_000_000 << 16
"""As large as real ones are: milliseconds, and 16 bits of chance."""

WRITTEN = 1_000_000
"""How many changes each region is taken to have written: what a position's number is long for."""


def section(options: Options) -> list[Row]:
    """Bytes of a token after reading what each region holds; the median, least and greatest."""
    if not options.chosen("token"):
        return []
    rows = []
    for count in REGIONS[:1] if options.quick else REGIONS:
        for how, together in (("one after the other", False), ("all at once", True)):
            seen = list(_seen(count, together=together))
            for groups in GROUPS:
                sizes = [
                    len(tokens.encode({f"group-{n}": vector for n in range(groups)}))
                    for vector in seen
                ]
                name = f"token, {count} regions that wrote {how}, {groups} group(s)"
                rows.append(row(name, sizes, "bytes"))
    return rows


def _seen(count: int, *, together: bool) -> Iterable[Vector]:
    """What a client has seen that reads in each of so many regions, all of which have written."""
    names = [f"region-{number:02}" for number in range(count)]
    world = World(*names)
    for name in names:
        world.regions[name].write(_creating(name), world.now_ms)
        if not together:
            world.run(200)
    world.settle()
    for name in names:
        journal = world.regions[name].journal
        left = tokens.reduced(journal.vector, journal.implied)
        yield {Origin(region, INCARNATION): WRITTEN for region, _ in left}


def _creating(key: str) -> Callable[[Transaction], channel_pb2.Channel]:
    def change(transaction: Transaction) -> channel_pb2.Channel:
        channel = channel_pb2.Channel(channel_id=key, title="news")
        transaction.create(channel)
        return channel

    return change
