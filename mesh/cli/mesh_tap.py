"""`isthmus mesh tap`: calls as they end, in every region, until Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli.options import MESH, AsJson, MeshPath

if TYPE_CHECKING:
    from isthmus.mesh.v1.tap_pb2 import TappedCall, TapRequest, TapResponse

    from mesh.contracts import Contract

_PAUSE = 2.0
"""Seconds before a region that did not answer is asked again."""

Regions = Annotated[
    list[str] | None,
    typer.Option("--region", "-r", help="Only this region; may be repeated.", metavar="REGION"),
]
Workloads = Annotated[
    list[str] | None,
    typer.Option("--workload", help="Only calls to it, or seen by its sidecar.", metavar="NAME"),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        help="`package.Service/Method`, or as much of its end as is unique.",
        metavar="METHOD",
    ),
]
Callers = Annotated[
    list[str] | None,
    typer.Option(
        "--caller", help="A workload, `operator`, `device`, a name, a SPIFFE ID.", metavar="CALLER"
    ),
]
Statuses = Annotated[
    list[str] | None,
    typer.Option("--status", help="Such as NOT_FOUND, or HTTP_404.", metavar="STATUS"),
]


def tap(
    region: Regions = None,
    workload: Workloads = None,
    method: Methods = None,
    caller: Callers = None,
    status: Statuses = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only what did not end well.")] = False,
    every_hop: Annotated[
        bool, typer.Option("--every-hop", help="Each call at every sidecar that it passed.")
    ] = False,
    payload: Annotated[
        bool,
        typer.Option(
            "--payload", help="With what was said, but for what the contract has redacted."
        ),
    ] = False,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.1, help="End after this long.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="End after so many calls.")
    ] = None,
    per_second: Annotated[
        int,
        typer.Option("--per-second", min=1, max=2000, help="The most calls a second, by region."),
    ] = 200,
    mesh: MeshPath = MESH,
    as_json: AsJson = False,
) -> int:
    """Shows live calls by caller, method, status and latency, until Ctrl-C.

    Calls are read from the sidecars' own logs, within a second or two of their end, so none waits
    for a tap. A call is shown once, by the sidecar that knows who began it: the edge it came
    through, else the callee's own; the caller's, if it never arrived.
    What is too much, or more than this reader takes, is left out and counted. Streams show when
    they end. Who taps what is in the log of each region's control plane.

    What was said in a call is shown with --payload alone, 64 KB each way, and as the callee's
    sidecar sees it: who came by an edge is that edge there. What the contract marks `debug_redact`,
    keeps in a home region or does not know is never shown.

    With --json, one object a line: a call, or `{"region": ..., "left_out": ...}`.

    Ends with 3 if no region answers.
    """
    from isthmus.mesh.v1 import sidecars_pb2, tap_pb2

    from mesh.cli.exits import CommandError, Exit
    from mesh.cli.session import run
    from mesh.contracts import load as load_contract
    from mesh.topology import load

    topology = load(mesh)
    unknown = set(region or ()) - set(topology.region_names)
    if unknown:
        raise CommandError(
            f"{', '.join(sorted(unknown))}: {mesh} has {', '.join(topology.region_names)}",
            Exit.NOT_FOUND,
        )
    request = tap_pb2.TapRequest(
        filter=sidecars_pb2.TapFilter(
            workloads=workload,
            paths=_paths(method or (), load_contract()) if method else (),
            callers=caller,
            statuses=[each.upper() for each in status or ()],
            failed=failed,
            every_hop=every_hop,
            payloads=payload,
        ),
        per_second=per_second,
    )
    shown = _Shown(as_json, count)
    try:
        answered = run(_tap(mesh, region or topology.region_names, request, shown, seconds))
    except KeyboardInterrupt:
        return Exit.OK  # how a tap ends
    return Exit.OK if answered else Exit.UNREACHABLE


def _paths(methods: Iterable[str], contract: Contract) -> list[str]:
    from mesh.xds.why import method_of

    found = [method_of(each, contract) for each in methods]
    return [each if isinstance(each, str) else each.path for each in found]


class _Enough(Exception):
    """As many calls as were asked for are shown."""


class _Shown:
    """Prints, and counts what it prints."""

    def __init__(self, as_json: bool, most: int | None) -> None:
        self._as_json = as_json
        self._left = most

    def note(self, text: str) -> None:
        """Says something about the tap itself, apart from the calls."""
        print(text, file=sys.stderr, flush=True)

    def show(self, region: str, answer: TapResponse) -> None:
        """Prints an answer's calls. Raises `_Enough`."""
        from mesh.cli import output

        for each in answer.calls:
            if self._as_json:
                output.print_json(_as_json(each), one_line=True)
            else:
                print("\n".join((_line(each), *_said(each))), flush=True)
            if self._left is not None:
                self._left -= 1
                if not self._left:
                    raise _Enough
        if answer.left_out and self._as_json:
            output.print_json({"region": region, "left_out": answer.left_out}, one_line=True)
        elif answer.left_out:
            self.note(f"{region}: {answer.left_out} more calls are left out")


async def _tap(
    mesh: Path, regions: Iterable[str], request: TapRequest, shown: _Shown, seconds: float | None
) -> bool:
    """Taps all of these until it is enough; whether any has answered."""
    import asyncio

    answered: dict[str, bool] = {}
    refused: list[Exception] = []
    names = list(regions)

    async def one(region: str) -> None:
        while True:
            try:
                ended = await _tap_one(mesh, region, request, shown, answered)
            except _Enough:
                raise
            except Exception as error:  # whatever it is ends the whole, and is told by itself
                refused.append(error)
                raise _Enough from None
            answered.setdefault(region, False)
            if len(answered) == len(names) and not any(answered.values()):
                raise _Enough
            shown.note(f"{region}: {ended}; trying again")
            await asyncio.sleep(_PAUSE)

    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for region in names:
                group.create_task(one(region))
    except* (_Enough, TimeoutError):
        pass
    if refused:
        raise refused[0]
    return any(answered.values())


async def _tap_one(
    mesh: Path, region: str, request: TapRequest, shown: _Shown, answered: dict[str, bool]
) -> str:
    """Taps one region as long as it lasts; returns why it ended."""
    import grpc
    from isthmus.mesh.v1.tap_pb2_grpc import TapServiceStub

    from mesh.cli.session import session
    from mesh.cli.standing import problem
    from mesh.runtime.client import NoEdge

    try:
        async with session(mesh, region, only=True) as opened, opened.edges.connect() as channel:
            async for answer in TapServiceStub(channel).Tap(request):
                if not answered.get(region):
                    answered[region] = True
                    shown.note(f"{region}: {answer.sidecars} sidecars are listened to")
                shown.show(region, answer)
    except NoEdge as error:
        return str(error)
    except grpc.aio.AioRpcError as error:
        if error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
            raise
        return problem(error)
    return "its tap has ended"


def _line(call: TappedCall) -> str:
    """``12:00:00.123 eu/edge  operator/ann > channels  ChannelService/ListChannels  OK  3 ms``."""
    from datetime import UTC

    from mesh.cli import output
    from mesh.cli.terminal import printable

    time = call.time.ToDatetime(UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
    latency = output.duration(call.latency.ToTimedelta())
    more = f"  {call.attempts} attempts" if call.attempts > 1 else ""
    if call.details and call.status != "OK":
        more += f"  ({call.details})"
    return printable(
        f"{time} {call.sidecar.region}/{call.sidecar.workload}  "
        f"{_short(call.caller) or '-'} > {call.callee or '-'}  "
        f"{call.path.removeprefix('/')}  {call.status}  {latency}{more}",
        lines=False,
    )


def _said(call: TappedCall) -> Iterable[str]:
    """`  > {...}` for what was asked, `  < {...}` for what was answered."""
    from mesh.cli.terminal import printable

    for sign, texts in ((">", call.requests), ("<", call.responses)):
        for text in texts:
            yield printable(f"  {sign} {text}", lines=False)
    if call.cut:
        yield "  ... and more, which was too long, compressed, or not caught"


def _short(spiffe_id: str) -> str:
    """`operator/ann` or `eu/channels`, of a SPIFFE ID."""
    path = spiffe_id.removeprefix("spiffe://").partition("/")[2]
    return path.removeprefix("region/").replace("/workload/", "/")


def _as_json(call: TappedCall) -> dict[str, Any]:
    from datetime import UTC

    return {
        "time": call.time.ToDatetime(UTC).isoformat(timespec="milliseconds"),
        "region": call.sidecar.region,
        "sidecar": call.sidecar.workload,
        "listener": call.listener,
        "caller": call.caller,
        "callee": call.callee,
        "method": call.path.removeprefix("/"),
        "status": call.status,
        "latency_ms": call.latency.ToMilliseconds(),
        "attempts": call.attempts,
        "bytes_received": call.bytes_received,
        "bytes_sent": call.bytes_sent,
        "details": call.details,
        "traceparent": call.traceparent,
        "request_id": call.request_id,
    } | _payloads(call)


def _payloads(call: TappedCall) -> dict[str, Any]:
    import json

    if not (call.requests or call.responses or call.cut):
        return {}
    return {
        "requests": [json.loads(each) for each in call.requests],
        "responses": [json.loads(each) for each in call.responses],
        "cut": call.cut,
    }
