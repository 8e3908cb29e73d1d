"""kill -9 of a writing process, again and again: every acknowledged write is found."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from isthmus.channels.v1 import channel_pb2

from mesh.replication import Group, Transaction, WriteContext
from tests.support.regions import contract

Channel = channel_pb2.Channel
ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 5


def write_until_killed(folder: Path, prefix: str, acknowledged: set[str], after: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.writer", str(folder), prefix],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            acknowledged.add(line.strip())
            after -= 1
            if after == 0:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.e2e
async def test_no_acknowledged_write_is_lost(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    for number in range(ROUNDS):
        after = random.randint(20, 400)  # noqa: S311 # when to kill, not a secret
        write_until_killed(tmp_path, f"r{number}", acknowledged, after)
    group = await Group.open(contract(), "channels", region="eu", peers=["us"], folder=tmp_path)
    found = {channel.channel_id: channel for channel in group.list(Channel)}
    everything = found.pop("all")
    assert acknowledged <= found.keys()
    # A write is there with all of its changes or not at all, and it counted once.
    assert everything.takeovers == len(found)
    # Each life that followed another took an incarnation of its own.
    assert len(group.journal.vector) == ROUNDS
    # A caller who heard no answer repeats, and gets one.
    some = min(acknowledged)

    def never(tx: Transaction) -> Channel:
        raise AssertionError("a repeat must not run")

    context = WriteContext("operator/first", "", some, "m", b"")
    assert (await group.write(never, context)).channel_id == some
    digest = group.journal.digest()
    await group.close()
    again = await Group.open(contract(), "channels", region="eu", peers=["us"], folder=tmp_path)
    assert again.journal.digest() == digest
    await again.close()
