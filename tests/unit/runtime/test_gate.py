"""The gate before every method: principal, contract, values, errors; over a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from isthmus.channels.v1.channel_pb2 import Source
from isthmus.channels.v1.channels_pb2 import CreateChannelRequest, GetChannelRequest
from structlog.testing import capture_logs

from mesh.replication import AlreadyExists, StoreFull, WriteNotStored
from mesh.runtime import NotFound, caller
from tests.unit.runtime.serving import (
    DOMAIN,
    SERVICE,
    answer,
    call,
    device,
    element,
    operator,
    reason_of,
    serving,
    through_edge,
    violations_of,
    workload,
)

GOOD = CreateChannelRequest(channel_id="news", source=Source(file="news.mp4"))
BAD = CreateChannelRequest(
    channel_id="No Name",
    source=Source(file="../secret"),
    labels=["", "fine"],
    request_id="not-a-uuid",
)
KINDS: dict[str, Any] = {
    "Unary": GOOD,
    "Collect": [GOOD],
    "Feed": GOOD,
    "Write": GOOD,
    "Talk": [GOOD],
}
# For calls that end before the first message is read: grpc.aio's client answers INTERNAL by itself
# if it was about to write one.
SILENT: dict[str, Any] = KINDS | {"Collect": [], "Talk": []}
Context = grpc.aio.ServicerContext[Any, Any]


class Echo:
    """Answers with what it was asked and by whom; `reached` counts methods that ran."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.reached = 0

    def _reply(self, text: str) -> GetChannelRequest:
        self.reached += 1
        if self.error is not None:
            raise self.error
        return GetChannelRequest(channel_id=f"{text} {caller().spiffe_id}")

    async def Unary(self, request: CreateChannelRequest, context: Context) -> GetChannelRequest:
        return self._reply(request.channel_id)

    async def Undeclared(
        self, request: CreateChannelRequest, context: Context
    ) -> GetChannelRequest:
        return self._reply(request.channel_id)

    async def Collect(
        self, requests: AsyncIterator[CreateChannelRequest], context: Context
    ) -> GetChannelRequest:
        return self._reply("+".join([request.channel_id async for request in requests]))

    async def Feed(
        self, request: CreateChannelRequest, context: Context
    ) -> AsyncIterator[GetChannelRequest]:
        yield self._reply(request.channel_id)

    async def Write(self, request: CreateChannelRequest, context: Context) -> None:
        await context.write(self._reply(request.channel_id))

    async def Talk(
        self, requests: AsyncIterator[CreateChannelRequest], context: Context
    ) -> AsyncIterator[GetChannelRequest]:
        async for request in requests:
            yield self._reply(request.channel_id)


class Grouped(Echo):
    """Reads its stream in a task group, as a method with two directions does."""

    async def Talk(
        self, requests: AsyncIterator[CreateChannelRequest], context: Context
    ) -> AsyncIterator[GetChannelRequest]:
        seen: list[str] = []

        async def read() -> None:
            async for request in requests:
                seen.append(request.channel_id)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(read())
        yield self._reply("+".join(seen))


class Reading(Echo):
    """Reads its stream by itself."""

    async def Talk(
        self, requests: AsyncIterator[CreateChannelRequest], context: Context
    ) -> AsyncIterator[GetChannelRequest]:
        while isinstance(request := await context.read(), CreateChannelRequest):
            yield self._reply(request.channel_id)


def statuses(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The statuses in the access log."""
    return [line["status"] for line in lines if line["event"] == "call"]


async def logged(lines: Sequence[Mapping[str, Any]]) -> None:
    """Waits for a call's line: its client may know the status before the line is written."""
    async with asyncio.timeout(5):
        while not statuses(lines):
            await asyncio.sleep(0.01)


async def refused(started: Any) -> grpc.aio.AioRpcError:
    """The error of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await answer(started)
    return raised.value


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize(
    ("header", "principal"),
    [
        (through_edge(operator()), operator()),
        (element(workload("overview", "us")), workload("overview", "us")),
    ],
)
async def test_callers_of_the_contract_pass(
    method: str, header: str, principal: str, tmp_path: Path
) -> None:
    async with serving(tmp_path, Echo()) as channel:
        assert await answer(call(channel, method, KINDS[method], header)) == [f"news {principal}"]


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize(
    ("header", "principal"),
    [
        (through_edge(device()), device()),
        (element(workload("channels")), workload("channels")),
        (f"{element(operator())},{element(workload('channels'))}", workload("channels")),
        (element(operator()).replace(operator(), workload("edge")), workload("edge")),
        (None, "unenrolled"),
    ],
)
async def test_others_are_denied_before_the_method_runs(
    method: str, header: str | None, principal: str, tmp_path: Path
) -> None:
    echo = Echo()
    async with serving(tmp_path, echo) as channel:
        error = await refused(call(channel, method, SILENT[method], header))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    info = reason_of(error)
    assert info.reason == "CALLER_NOT_IN_CONTRACT"
    assert dict(info.metadata) == {
        "method": f"{SERVICE}/{method}",
        "location": "echo/v1/echo.proto:7",
        "principal": principal,
    }
    assert "echo/v1/echo.proto:7" in (error.details() or "")
    assert echo.reached == 0


@pytest.mark.parametrize("header", ["garbage", f"URI=spiffe://other.{DOMAIN}/operator/ann"])
async def test_a_peer_that_is_nobody_is_unauthenticated(header: str, tmp_path: Path) -> None:
    echo = Echo()
    async with serving(tmp_path, echo) as channel:
        error = await refused(call(channel, "Unary", GOOD, header))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert reason_of(error).reason == "UNTRUSTED_CALLER"
    assert echo.reached == 0


async def test_a_method_outside_of_the_contract_is_closed_to_all(tmp_path: Path) -> None:
    echo = Echo()
    async with serving(tmp_path, echo) as channel:
        error = await refused(call(channel, "Undeclared", GOOD, through_edge(operator())))
    assert reason_of(error).reason == "METHOD_NOT_IN_CONTRACT"
    assert echo.reached == 0


@pytest.mark.parametrize("method", ["Unary", "Feed", "Write"])
async def test_a_bad_request_names_each_field(method: str, tmp_path: Path) -> None:
    echo = Echo()
    async with serving(tmp_path, echo) as channel:
        error = await refused(call(channel, method, BAD, through_edge(operator())))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = violations_of(error)
    assert set(violations) == {"channel_id", "source.file", "labels[0]", "request_id"}
    assert violations["source.file"].startswith("must be a relative path")
    assert echo.reached == 0


@pytest.mark.parametrize(
    ("method", "servicer"),
    [("Collect", Echo), ("Talk", Echo), ("Talk", Grouped), ("Talk", Reading)],
)
async def test_each_message_of_a_stream_is_checked(
    method: str, servicer: type[Echo], tmp_path: Path
) -> None:
    async with serving(tmp_path, servicer()) as channel:
        started = call(channel, method, [GOOD, BAD], through_edge(operator()))
        error = await refused(started)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "source.file" in violations_of(error)


async def test_a_stream_that_is_read_by_itself_ends(tmp_path: Path) -> None:
    async with serving(tmp_path, Reading()) as channel:
        started = call(channel, "Talk", [GOOD, GOOD], through_edge(operator()))
        assert await answer(started) == [f"news {operator()}"] * 2


@pytest.mark.parametrize("method", KINDS)
async def test_a_typed_error_keeps_code_reason_and_message(method: str, tmp_path: Path) -> None:
    error = NotFound("no channel", reason="CHANNEL_UNKNOWN", metadata={"channel_id": "news"})
    async with serving(tmp_path, Echo(error)) as channel:
        seen = await refused(call(channel, method, KINDS[method], through_edge(operator())))
    assert (seen.code(), seen.details()) == (grpc.StatusCode.NOT_FOUND, "no channel")
    info = reason_of(seen)
    assert (info.reason, info.domain) == ("CHANNEL_UNKNOWN", "isthmus.dev")
    assert dict(info.metadata) == {"channel_id": "news"}


def not_stored() -> WriteNotStored:
    """How a full disk reaches a method."""
    error = WriteNotStored("the store took nothing")
    error.__cause__ = StoreFull("no space left")
    return error


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (AlreadyExists("it lives"), grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"),
        (not_stored(), grpc.StatusCode.UNAVAILABLE, "STORE_FULL"),
    ],
)
async def test_replications_errors_are_typed_too(
    error: Exception, code: grpc.StatusCode, reason: str, tmp_path: Path
) -> None:
    async with serving(tmp_path, Echo(error)) as channel:
        seen = await refused(call(channel, "Unary", GOOD, through_edge(operator())))
    assert (seen.code(), reason_of(seen).reason) == (code, reason)


@pytest.mark.parametrize("method", KINDS)
async def test_an_unforeseen_error_is_logged_and_not_leaked(method: str, tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with serving(tmp_path, Echo(ValueError("the password is 1234"))) as channel:
            seen = await refused(call(channel, method, KINDS[method], through_edge(operator())))
            await logged(lines)
    assert seen.code() is grpc.StatusCode.INTERNAL
    assert "1234" not in (seen.details() or "") + str(seen.trailing_metadata())
    (failure,) = [line for line in lines if line["log_level"] == "error"]
    assert failure["exc_info"]
    assert failure["principal"] == operator()


@pytest.mark.parametrize(
    ("error", "header", "status"),
    [
        (None, through_edge(operator()), "OK"),
        (NotFound("no", reason="NO"), through_edge(operator()), "NOT_FOUND"),
        (ValueError("no"), through_edge(operator()), "INTERNAL"),
        (None, through_edge(device()), "PERMISSION_DENIED"),
    ],
)
@pytest.mark.parametrize("method", KINDS)
async def test_every_call_is_logged_once(
    method: str, error: Exception | None, header: str, status: str, tmp_path: Path
) -> None:
    with capture_logs() as lines:
        async with serving(tmp_path, Echo(error)) as channel:
            try:
                requests = SILENT if status == "PERMISSION_DENIED" else KINDS
                await answer(call(channel, method, requests[method], header))
            except grpc.aio.AioRpcError as seen:
                assert seen.code().name == status
            await logged(lines)
    assert statuses(lines) == [status]
    line = next(line for line in lines if line["event"] == "call")
    assert line["method"] == f"{SERVICE}/{method}"
    assert 0 <= line["seconds"] < 10
    assert line["principal"] == (operator() if status != "PERMISSION_DENIED" else None)


async def test_a_method_that_aborts_by_itself_keeps_its_status(tmp_path: Path) -> None:
    class Aborting(Echo):
        async def Unary(self, request: CreateChannelRequest, context: Context) -> Any:
            await context.abort(grpc.StatusCode.DATA_LOSS, "gone")

    with capture_logs() as lines:
        async with serving(tmp_path, Aborting()) as channel:
            seen = await refused(call(channel, "Unary", GOOD, through_edge(operator())))
            await logged(lines)
    assert (seen.code(), seen.details()) == (grpc.StatusCode.DATA_LOSS, "gone")
    assert statuses(lines) == ["DATA_LOSS"]


async def test_a_client_that_leaves_ends_the_method(tmp_path: Path) -> None:
    ended = asyncio.Event()
    begun = asyncio.Event()

    class Slow(Echo):
        async def Feed(
            self, request: CreateChannelRequest, context: Context
        ) -> AsyncIterator[GetChannelRequest]:
            begun.set()
            try:
                await asyncio.Event().wait()
                yield GetChannelRequest()
            finally:
                ended.set()

    with capture_logs() as lines:
        async with serving(tmp_path, Slow()) as channel:
            started = call(channel, "Feed", GOOD, through_edge(operator()))
            await asyncio.wait_for(begun.wait(), 10)
            started.cancel()
            await asyncio.wait_for(ended.wait(), 10)
            await logged(lines)
    assert statuses(lines) == ["CANCELLED"]


async def test_a_caller_is_known_in_its_own_call_alone(tmp_path: Path) -> None:
    first, second = asyncio.Event(), asyncio.Event()

    class Interleaved(Echo):
        async def Unary(self, request: CreateChannelRequest, context: Context) -> Any:
            if request.channel_id == "one":
                first.set()
                await second.wait()
            else:
                await first.wait()
                second.set()
            return self._reply(request.channel_id)

    async with serving(tmp_path, Interleaved()) as channel:
        source = Source(file="a.mp4")
        answers = await asyncio.gather(
            answer(
                call(
                    channel,
                    "Unary",
                    CreateChannelRequest(channel_id="one", source=source),
                    through_edge(operator("ann")),
                )
            ),
            answer(
                call(
                    channel,
                    "Unary",
                    CreateChannelRequest(channel_id="two", source=source),
                    through_edge(operator("second")),
                )
            ),
        )
    assert answers == [[f"one {operator('ann')}"], [f"two {operator('second')}"]]
    with pytest.raises(LookupError):
        caller()


async def test_payloads_are_logged_at_debug_level_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = structlog.get_config()
    try:
        for level, logged in ((10, 1), (20, 0)):
            structlog.configure(
                processors=[structlog.processors.JSONRenderer()],
                wrapper_class=structlog.make_filtering_bound_logger(level),
                cache_logger_on_first_use=False,
            )
            async with serving(tmp_path, Echo()) as channel:
                await answer(call(channel, "Unary", GOOD, through_edge(operator())))
            lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
            payloads = [line for line in lines if line["event"] == "request"]
            assert len(payloads) == logged
            if payloads:
                assert payloads[0]["request"]["channel_id"] == "news"
    finally:
        structlog.configure(**before)
