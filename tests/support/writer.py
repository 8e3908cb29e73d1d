"""A process that writes without end and says what was acknowledged; made to be killed.

Run as ``python -m tests.support.writer FOLDER PREFIX``; prints one key a line.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from isthmus.channels.v1 import channel_pb2

from mesh.replication import Group, Transaction, WriteContext
from mesh.replication import committer as committing
from tests.support.regions import contract

Channel = channel_pb2.Channel


async def main(folder: Path, prefix: str) -> None:
    # Flushes come often, so that kills meet them too.
    committing.FLUSH_SECONDS = 0.05
    group = await Group.open(contract(), "channels", region="eu", peers=["us"], folder=folder)

    async def write(writer: int) -> None:
        number = 0
        while True:
            number += 1
            key = f"{prefix}-{writer}-{number}"

            def change(tx: Transaction, key: str = key) -> Channel:
                tx.create(Channel(channel_id=key, title=key))
                if tx.get(Channel, "all") is None:
                    tx.create(Channel(channel_id="all"))
                tx.increment(Channel, "all", "takeovers")
                return Channel(channel_id=key)

            await group.write(change, WriteContext("operator/first", "", key, "m", b""))
            print(key, flush=True)

    await asyncio.gather(*(write(n) for n in range(4)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
