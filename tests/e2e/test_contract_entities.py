"""What options say of entities, and of the methods that change them, holds between two regions.

A service with the whole runtime runs in each, behind its sidecar; its contract is
`tests/support/things/things.proto`. Everything that merges is written on both sides of one cut.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from mesh.local.ports import claim_blocks
from mesh.local.wan import HEALTHY, Fault
from mesh.runtime import SessionTokens
from mesh.runtime.home_calls import HomeCalls
from mesh.runtime.logs import REDACTED
from tests.e2e.sidecars import SmallMesh
from tests.support.capture import files, found_in
from tests.support.things.contract import SERVICE, contract, message

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

ROOT = Path(__file__).resolve().parents[2]
REGIONS = ("eu", "us")
SECRET = "the number of eu's own safe"  # noqa: S105 - what must not be seen elsewhere


class Things:
    """The two regions, and a client in each."""

    def __init__(self, mesh: SmallMesh) -> None:
        self.mesh = mesh
        self.session = SessionTokens()
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self) -> None:
        await self.mesh.start(*((region, "things") for region in REGIONS))
        for region in REGIONS:
            place = self.mesh.place(region, "things")
            with (place.logs / "service.log").open("ab") as log:
                started = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "tests.support.things.serving"),
                    cwd=ROOT,
                    env={
                        **os.environ,
                        **place.environment(),
                        "ISTHMUS_LOG_LEVEL": "debug",
                    },
                    stdout=log,
                    stderr=log,
                )
            self._processes.append(started)
        for region in REGIONS:
            await self.until(region, "Thing", "none", None)

    async def close(self) -> None:
        for process in self._processes:
            process.terminate()
        await asyncio.gather(*(process.wait() for process in self._processes))
        await self.mesh.close()

    def channel(self, region: str, *interceptors: Any) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(
            f"unix:{self.mesh.place(region, 'things').egress_socket}",
            options=[("grpc.default_authority", "things"), ("grpc.use_local_subchannel_pool", 1)],
            interceptors=interceptors,
        )

    async def ask(
        self, region: str, method: str, request: Any, *interceptors: grpc.aio.ClientInterceptor
    ) -> Any:
        """Calls through the region's own sidecar, with no deadline of the client's."""
        async with self.channel(region, *interceptors) as channel:
            invoke = channel.unary_unary(
                f"/{SERVICE}/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=message("Answer").FromString,
            )
            return json.loads((await invoke(request)).json)

    async def change(
        self, region: str, kind: str, key: str, *steps: Any, by: str = "Change"
    ) -> Any:
        order = message("Order")(type=kind, key=key, steps=json.dumps(steps))
        return await self.ask(region, by, order, *([self.session] if kind == "Plain" else []))

    async def read(self, region: str, kind: str, key: str) -> Any:
        return await self.ask(region, "Read", message("Order")(type=kind, key=key))

    async def until(self, region: str, kind: str, key: str, expected: Any) -> None:
        """Until a region has an entity as it is expected; None: it answers at all."""
        found: Any = None
        try:
            async with asyncio.timeout(40):
                while True:
                    try:
                        found = await self.read(region, kind, key)
                        if expected is None or found["is"] == expected:
                            return
                    except grpc.aio.AioRpcError as error:
                        found = error
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"{region} has {found}, not {expected}")

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Nothing passes between the regions."""
        links = (REGIONS, REGIONS[::-1])
        for link in links:
            self.mesh.wan.set_fault(*link, Fault(cut=True))
        try:
            yield
        finally:
            for link in links:
                self.mesh.wan.set_fault(*link, HEALTHY)


def typed(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """The reason of an error."""
    status, info = rpc_status.from_call(error), error_details_pb2.ErrorInfo()
    assert status is not None and status.details[0].Unpack(info), error
    return info


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def things(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Things]:
    claim = claim_blocks(2)
    short = Path(tempfile.mkdtemp(prefix="ist-"))
    small = SmallMesh(
        tmp_path_factory.mktemp("things"),
        short,
        list(claim.bases),
        contract=contract(),
        workloads=("things",),
    )
    running = Things(small)
    try:
        await running.start()
        yield running
    finally:
        await running.close()
        shutil.rmtree(short)
        claim.release()


BEFORE: dict[str, Any] = {
    "most": "4",
    "least": "4",
    "count": "1",
    "labels": ["both", "gone"],
    "tags": {"same": "old", "gone": "old"},
}
WRITTEN: dict[str, list[list[Any]]] = {
    "eu": [
        ["set", {"latest": "eu", "first": "eu", "most": 9, "least": 3}],
        ["set", {"part": {"left": "eu"}}, "part.left"],
        ["set", {"note": "eu", "rank": {"epoch": 3, "region": "a", "why": "eu"}}],
        ["increment", "count", 2],
        ["add", "labels", "eu"],
        ["add", "labels", "both"],
        ["put", "tags", {"same": "eu", "eu": "1"}],
    ],
    "us": [
        ["set", {"latest": "us", "first": "us", "most": 5, "least": 1}],
        ["set", {"part": {"right": "us"}}, "part.right"],
        ["set", {"note": "us", "rank": {"epoch": 2, "region": "z", "why": "us"}}],
        ["increment", "count", 4],
        ["remove", "labels", "both", "gone"],
        ["put", "tags", {"same": "us"}],
        ["remove", "tags", "gone"],
    ],
}
"""Those in us come after those in eu, and neither sees the other's."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def merged(things: Things) -> dict[str, Any]:
    """What both regions read once the cut is healed."""
    created = await things.change("eu", "Thing", "one", ["create", BEFORE])
    await things.until("us", "Thing", "one", created)
    tied = await things.change("eu", "Thing", "tied", ["create", {}])
    await things.until("us", "Thing", "tied", tied)
    with things.cut():
        for region, steps in WRITTEN.items():
            # Each sees its own at once: no region waits for another.
            mine = await things.change(region, "Thing", "one", *steps)
            assert mine["latest"] == region
            rank = {"rank": {"epoch": 7, "region": region, "why": region}}
            await things.change(region, "Thing", "tied", ["set", rank])
    reads: list[Any] = []
    async with asyncio.timeout(40):
        while not reads or reads[0] != reads[1] or reads[0]["is"].get("count") != "7":
            reads = [await things.read(region, "Thing", "one") for region in REGIONS]
            assert [read.pop("region") for read in reads] == list(REGIONS)
    await things.until("eu", "Thing", "tied", (await things.read("us", "Thing", "tied"))["is"])
    found: dict[str, Any] = reads[0]
    return found


@pytest.mark.proves(
    *("ServiceContract.group", "EntityContract.group", "EntityContract.key"),
    *("EntityContract.home", "Home.HOME_UNSPECIFIED", "Home.HOME_ANY_REGION"),
)
async def test_any_region_writes_what_has_no_home(things: Things) -> None:
    for kind, field in (("Thing", "latest"), ("Plain", "title")):
        made = await things.change("eu", kind, "open", ["create", {field: "eu"}])
        await things.until("us", kind, "open", made)
        made = await things.change("us", kind, "open", ["set", {field: "us"}])
        await things.until("eu", kind, "open", made)
        assert made[field] == "us"
        # A key names one entity of its type.
        with pytest.raises(grpc.aio.AioRpcError) as twice:
            await things.change("us", kind, "open", ["create", {}])
        assert twice.value.code() is grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.proves(
    *("FieldContract.merge", "FieldContract.order_by", "Merge.MERGE_LATEST", "Merge.MERGE_FIRST"),
    *("Merge.MERGE_MAX", "Merge.MERGE_MIN", "Merge.MERGE_COUNTER", "Merge.MERGE_SET"),
    *("Merge.MERGE_MAP", "Merge.MERGE_MESSAGE", "Merge.MERGE_KEEP_BOTH"),
)
async def test_concurrent_writes_merge_by_the_rules(things: Things, merged: dict[str, Any]) -> None:
    found = merged["is"]
    assert (found["latest"], found["first"]) == ("us", "eu")
    assert (found["most"], found["least"]) == ("9", "1")
    assert found["count"] == "7"
    assert sorted(found["labels"]) == ["both", "eu"]
    assert found["tags"] == {"same": "us", "eu": "1"}
    assert found["part"] == {"left": "eu", "right": "us"}
    assert (found["note"], merged["notes"]) == ("us", ["eu", "us"])
    # By the first of the fields that order it, and by the second where that is the same.
    assert found["rank"]["why"] == "eu"
    tied = (await things.read("eu", "Thing", "tied"))["is"]
    assert tied["rank"]["why"] == "us"


@pytest.mark.proves("EntityContract.history")
async def test_history_is_kept_where_it_is_asked_for(
    things: Things, merged: dict[str, Any]
) -> None:
    assert {region for region, *_ in merged["history"]} == {"eu", "us"}
    assert any("latest" in fields for _, *fields in merged["history"])
    await things.change("eu", "Plain", "unnoted", ["create", {"title": "a"}])
    assert (await things.read("eu", "Plain", "unnoted"))["history"] == []


@pytest.mark.proves("Merge.MERGE_BOUNDED_COUNTER", "FieldContract.at_least")
async def test_a_bounded_counter_keeps_its_bound_in_all_regions_together(things: Things) -> None:
    made = await things.change("eu", "Shelf", "stock", ["create", {"stock": "12"}])
    await things.until("us", "Shelf", "stock", made)
    with pytest.raises(grpc.aio.AioRpcError) as below:
        await things.change("eu", "Shelf", "stock", ["increment", "stock", -11])
    assert typed(below.value).reason in ("BELOW_BOUND", "RIGHTS_SHORT")
    taken = 0
    with things.cut():
        for region in REGIONS * 2:
            try:
                await things.change(region, "Shelf", "stock", ["increment", "stock", -4])
                taken += 4
            except grpc.aio.AioRpcError as error:
                assert typed(error).reason == "RIGHTS_SHORT"
    assert taken in (4, 8)
    for region in REGIONS:
        await things.until(region, "Shelf", "stock", {**made, "stock": str(12 - taken)})


@pytest.mark.proves(
    *("MethodContract.durability", "Durability.DURABILITY_UNSPECIFIED"),
    *("Durability.DURABILITY_REGION", "Durability.DURABILITY_ONE_PEER"),
    "Durability.DURABILITY_MAJORITY",
)
async def test_a_write_is_acknowledged_where_its_method_says(things: Things) -> None:
    made = await things.change("eu", "Plain", "durable", ["create", {"title": "0"}])
    await things.until("us", "Plain", "durable", made)
    write = ["set", {"title": "1"}]
    with things.cut():
        for method in ("Change", "ChangeHere"):
            await things.change("eu", "Plain", "durable", write, by=method)
        for method in ("ChangeInTwo", "ChangeInMost"):
            # Who finds it written already is promised no less than who wrote it.
            for _ in range(2):
                with pytest.raises(grpc.aio.AioRpcError) as pending:
                    write = ["set", {"title": method}]
                    await things.change("eu", "Plain", "durable", write, by=method)
                info = typed(pending.value)
                assert (info.reason, info.metadata["needed"]) == ("DURABILITY_PENDING", "2")
    await things.until("us", "Plain", "durable", {**made, "title": method})
    for method in ("ChangeInTwo", "ChangeInMost"):
        await things.change("eu", "Plain", "durable", ["set", {"title": method}], by=method)


@pytest.mark.proves(
    *("MethodContract.consistency", "Consistency.CONSISTENCY_UNSPECIFIED"),
    *("Consistency.CONSISTENCY_EVENTUAL", "Consistency.CONSISTENCY_SESSION"),
)
async def test_a_read_is_as_fresh_as_its_method_says(things: Things) -> None:
    old = await things.change("eu", "Plain", "fresh", ["create", {"title": "old"}])
    await things.until("us", "Plain", "fresh", old)
    asked = message("Order")(type="Plain", key="fresh")
    with things.cut():
        new = await things.change("eu", "Plain", "fresh", ["set", {"title": "new"}])
        for method in ("Read", "ReadAny"):
            # What the region has, whatever the token has seen.
            seen = await things.ask("us", method, asked, things.session)
            assert seen["is"] == old
        with pytest.raises(grpc.aio.AioRpcError) as early:
            await things.ask("us", "ReadOwn", asked, things.session)
        assert typed(early.value).reason == "NOT_YET_HERE"
    await things.until("us", "Plain", "fresh", new)
    assert (await things.ask("us", "ReadOwn", asked, things.session))["is"] == new


@pytest.mark.proves(
    *("EntityContract.home", "EntityContract.home_field", "Home.HOME_ONE_REGION"),
    *("MethodContract.locality", "Locality.LOCALITY_HOME"),
)
async def test_one_region_writes_what_has_a_home(things: Things) -> None:
    made = await things.change("eu", "Person", "ann", ["create", {"title": "1"}])
    assert made["home"] == "eu"
    await things.until("us", "Person", "ann", made)

    async def refused(region: str, home: str) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as elsewhere:
            await things.change(region, "Person", "ann", ["set", {"title": "2"}])
        info = typed(elsewhere.value)
        assert (info.reason, info.metadata["home"]) == ("NOT_HOME", home)

    await refused("us", "eu")
    # A method of that locality goes there by itself.
    order = message("OfPerson")(person_id="ann", steps=json.dumps([["set", {"title": "3"}]]))
    assert (await things.ask("us", "ChangeAtHome", order, HomeCalls()))["title"] == "3"
    moved = await things.change("eu", "Person", "ann", ["move", "us"])
    await things.until("us", "Person", "ann", {**moved, "home": "us"})
    await refused("eu", "us")
    assert (await things.change("us", "Person", "ann", ["set", {"title": "4"}]))["title"] == "4"


@pytest.mark.proves(
    *("FieldContract.scope", "Scope.SCOPE_UNSPECIFIED"),
    *("Scope.SCOPE_GLOBAL", "Scope.SCOPE_HOME_REGION"),
)
async def test_what_is_of_its_home_region_is_on_no_other_disk(things: Things) -> None:
    made = await things.change("eu", "Person", "bob", ["create", {"title": "1", "pin": SECRET}])
    assert made["pin"] == SECRET
    shown = {name: value for name, value in made.items() if name != "pin"}
    await things.until("us", "Person", "bob", shown)
    # Both regions have the later write as well, so nothing is still under way.
    later = await things.change("eu", "Thing", "later", ["create", {"latest": "a", "first": "b"}])
    await things.until("us", "Thing", "later", later)
    eu, us = (files(things.mesh.place(region, "things").data) for region in REGIONS)
    assert found_in(eu, SECRET.encode()) and not found_in(us, SECRET.encode())


@pytest.mark.proves("debug_redact")
async def test_no_log_has_what_is_marked(things: Things) -> None:
    """Not even at the level at which requests are logged."""
    asked = message("Order")(type="Thing", key="asked-for", secret="a stream's key")  # noqa: S106 - what must not be seen
    await things.ask("eu", "Read", asked)
    logged = files(things.mesh.place("eu", "things").logs)
    assert b"asked-for" in logged and REDACTED.encode() in logged
    assert not found_in(logged, asked.secret.encode())
