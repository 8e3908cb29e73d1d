"""Envoy's phrases are told in an operator's words, with the reason and whom to ask."""

from __future__ import annotations

import grpc
import pytest

from mesh.cli import failures, status
from mesh.cli.exits import Exit
from mesh.cli.standing import Standing
from mesh.cli.upstream import in_words
from mesh.runtime.client import NoEdge

RESET = "upstream connect error or disconnect/reset before headers. "
UNREACHABLE = "the edge answers, but the service behind it cannot be reached"


@pytest.mark.parametrize(
    ("details", "says"),
    [
        (RESET + "reset reason: connection timeout", f"{UNREACHABLE} (connection timeout)"),
        (
            RESET + "retried and the latest reset reason: remote connection failure, "
            "transport failure reason: delayed connect error: Connection refused",
            f"{UNREACHABLE} (delayed connect error: Connection refused)",
        ),
        (
            f"eu: {RESET}reset reason: overflow; us: no healthy upstream",
            f"eu: {UNREACHABLE} (overflow); us: the edge answers, but no instance of the service "
            "is healthy",
        ),
        ("the disk is full", "the disk is full"),
    ],
)
def test_in_words(details: str, says: str) -> None:
    assert in_words(details) == says


def test_errors_of_commands_are_in_words() -> None:
    details = RESET + "reset reason: connection timeout"
    status = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details
    )
    for error in (status, NoEdge(f"no edge could be reached: 127.0.0.1:1: {details}")):
        explained = failures.explain(error)
        assert explained is not None
        assert f"{UNREACHABLE} (connection timeout)" in explained[0]
        assert "upstream" not in explained[0]
        assert "isthmus status" in explained[0]
        assert explained[1] is Exit.UNREACHABLE


def test_status_says_whom_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    down = Standing("eu", "channels", None, "it did not answer within 3 s")
    gone = Standing("ap", "channels", None, "its region's edge does not answer", edge=False)
    status._show([down, gone], [], [])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        "eu/channels: it did not answer within 3 s: ask media-operations, "
        "see docs/runbooks/channels.md",
        "ap/channels: its region's edge does not answer: see docs/runbooks/platform.md",
    ]
