"""`isthmus overview --watch`: a snapshot, what happens, and on after a break."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from isthmus.channels.v1 import channel_pb2, channels_pb2, channels_pb2_grpc

from mesh.cli.story.stage import Stage, until
from tests.support.mesh import RunningMesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture
def watching(running_mesh: RunningMesh) -> Iterator[subprocess.Popen[str]]:
    """The command, watching through ap's edge."""
    mesh = str(running_mesh.layout.topology.path)
    command = ("overview", "--watch", "--json", "--region", "ap", "--mesh", mesh)
    with subprocess.Popen(
        [sys.executable, "-m", "mesh.cli", *command], stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def next_line(
    process: subprocess.Popen[str], wanted: Callable[[dict[str, Any]], Any]
) -> dict[str, Any]:
    """Reads on until a line is wanted; the test's timeout is the limit."""
    assert process.stdout is not None
    for line in process.stdout:
        message: dict[str, Any] = json.loads(line)
        if wanted(message):
            return message
    raise AssertionError(f"the command ended with {process.wait()}")


async def test_it_shows_what_happens_and_goes_on_after_a_break(
    mesh_up: Stage, watching: subprocess.Popen[str]
) -> None:
    first = next_line(watching, lambda message: True)
    assert first["snapshot"]["region"] == "ap"
    channel_id = f"watched-{uuid.uuid4().hex[:8]}"
    await mesh_up.edges("eu").call(
        lambda channel: channels_pb2_grpc.ChannelServiceStub(channel).CreateChannel(
            channels_pb2.CreateChannelRequest(
                channel_id=channel_id,
                source=channel_pb2.Source(test_pattern=channel_pb2.TEST_PATTERN_BARS),
                request_id=str(uuid.uuid4()),
            ),
            timeout=5,
        ),
        repeatable=True,
    )
    next_line(watching, lambda message: channel_id in json.dumps(message.get("update", {})))
    await mesh_up.control.ask("workload-kill", region="ap", workload="overview")
    again = next_line(watching, lambda message: "snapshot" in message)
    assert channel_id in json.dumps(again)
    assert watching.poll() is None

    async def healthy() -> bool:
        return all(standing.healthy for standing in await mesh_up.standings())

    await until(healthy, 60, "the killed workload serves again")
