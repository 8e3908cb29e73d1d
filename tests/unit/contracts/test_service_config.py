"""A client with the contract's service config does what a sidecar would do for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration

from mesh.contracts.model import Contract, Idempotency, Method, Retry
from mesh.contracts.read import load
from mesh.contracts.service_config import MOST_ATTEMPTS, service_config

SERVICE = "isthmus.channels.v1.ChannelService"


def configured(method: str, contract: Contract | None = None) -> dict[str, Any]:
    for found in service_config(contract or load())["methodConfig"]:
        if found["name"] == [{"service": SERVICE, "method": method}]:
            return found
    raise AssertionError(method)


def changed(**by_name: dict[str, Any]) -> Contract:
    """The project's contract with some methods of the channels' service changed."""
    contract = load()
    service = contract.services[SERVICE]
    methods = [replace(m, **by_name.get(m.name, {})) for m in service.methods]
    services = {**contract.services, SERVICE: replace(service, methods=tuple(methods))}
    return replace(contract, services=services)


def every_method() -> list[Method]:
    return list(load().methods())


@pytest.mark.parametrize("method", every_method(), ids=lambda method: method.path)
def test_each_method_has_its_deadline_and_its_attempts(method: Method) -> None:
    found = {
        (each["name"][0]["service"], each["name"][0]["method"]): each
        for each in service_config(load())["methodConfig"]
    }.get((method.service, method.name), {})
    assert ("retryPolicy" in found) == (method.retry is not None)
    if method.retry is not None:
        assert method.idempotency is not Idempotency.UNKNOWN
        assert found["retryPolicy"]["maxAttempts"] == method.retry.attempts
    if method.timeout is None:
        assert "timeout" not in found
    else:
        said = json_format.Parse(json.dumps(found["timeout"]), Duration())
        assert said.ToTimedelta().total_seconds() == method.timeout


@pytest.mark.parametrize("seconds", [0.000001, 0.25, 5.0, 1_234_567.0])
def test_a_deadline_is_written_as_a_duration(seconds: float) -> None:
    text = configured("GetChannel", changed(GetChannel={"timeout": seconds}))["timeout"]
    assert json_format.Parse(json.dumps(text), Duration()).ToTimedelta().total_seconds() == seconds


def test_more_attempts_than_a_client_makes_are_not_promised() -> None:
    contract = changed(GetChannel={"retry": Retry(9, 0.1)})
    assert configured("GetChannel", contract)["retryPolicy"]["maxAttempts"] == MOST_ATTEMPTS


def test_clients_that_would_cut_deadlines_are_given_none() -> None:
    config = service_config(load(), deadlines=False)
    assert config["methodConfig"] and not any("timeout" in each for each in config["methodConfig"])


def test_a_workload_is_told_what_it_may_call_and_nothing_else() -> None:
    contract = load()
    told = {
        f"/{name['service']}/{name['method']}"
        for each in service_config(contract, "overview")["methodConfig"]
        for name in each["name"]
    }
    allowed = {
        m.path
        for m in contract.methods()
        if "overview" in m.callers.workloads or m.callers.any_workload
    }
    assert told and told <= allowed


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[str, Counter[str]]]:
    """Answers each method with UNAVAILABLE."""
    seen: Counter[str] = Counter()

    def refusing(name: str) -> grpc.RpcMethodHandler:
        async def handler(request: bytes, context: Any) -> bytes:
            seen[name] += 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            return b""

        return grpc.unary_unary_rpc_method_handler(handler)

    names = ("GetChannel", "StopChannel")
    made = grpc.aio.server()
    made.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {n: refusing(n) for n in names}),)
    )
    made.add_insecure_port(f"unix:{tmp_path}/s")
    await made.start()
    yield f"unix:{tmp_path}/s", seen
    await made.stop(None)


async def test_grpc_repeats_what_may_be_repeated(server: tuple[str, Counter[str]]) -> None:
    address, seen = server
    contract = changed(
        GetChannel={"retry": Retry(3, 1.0), "idempotency": Idempotency.NO_SIDE_EFFECTS},
        StopChannel={"retry": None},
    )
    config = json.dumps(service_config(contract, deadlines=False))
    async with grpc.aio.insecure_channel(
        address, options=[("grpc.service_config", config)]
    ) as channel:
        for name in ("GetChannel", "StopChannel"):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await channel.unary_unary(f"/{SERVICE}/{name}")(b"")
            assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
    assert seen == {"GetChannel": 3, "StopChannel": 1}
