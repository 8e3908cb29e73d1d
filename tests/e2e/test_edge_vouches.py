"""An edge signs whom it let in: services get it beside the hop's own identity."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from mesh.agent import vouching
from mesh.identity import authority, end_principals
from mesh.identity.end_principals import METADATA_KEY, EndPrincipal
from mesh.identity.spiffe import DeviceId, OperatorId, WorkloadId
from mesh.place import EDGE
from tests.e2e.sidecars import DOMAIN, SmallMesh, call, path
from tests.support.ports import free_blocks
from tests.support.tokens import AUDIENCE, ISSUER, Issuer

pytestmark = pytest.mark.e2e

OPERATOR = OperatorId(DOMAIN, "first")
DEVICE = DeviceId(DOMAIN, "encoder-1")


def _arrived(mesh: SmallMesh) -> EndPrincipal:
    """Whom the application was told."""
    value = mesh.apps["eu"].metadata[METADATA_KEY]
    assert isinstance(value, bytes)
    roots = authority.pem(mesh.root.certificate)
    return end_principals.verify(value, DOMAIN, roots, datetime.now(UTC))


async def test_operators_and_devices_arrive_signed(mesh: SmallMesh) -> None:
    await mesh.start(("eu", "beta"), ("eu", EDGE))
    forged = end_principals.state(
        # By a certificate of the mesh that is no edge's.
        mesh.held(WorkloadId(DOMAIN, "eu", "alpha")),
        OperatorId(DOMAIN, "root"),
        datetime.now(UTC),
    )
    for who, method in ((OPERATOR, "Operate"), (DEVICE, "Report")):
        channel = mesh.through_edge("eu", who)
        for metadata in ((), ((METADATA_KEY, forged),)):
            await channel.unary_unary(path(method))(b"", timeout=10, metadata=metadata)
            arrived = _arrived(mesh)
            assert arrived.identity == who
            assert arrived.edge == WorkloadId(DOMAIN, "eu", EDGE)


async def test_who_came_by_token_arrives_signed(tmp_path: Path, short: Path) -> None:
    issuer = Issuer()
    (tmp_path / "keys.json").write_text(issuer.key_set())
    access = f"edge: {{jwt: {{issuer: {ISSUER}, audience: {AUDIENCE}, keys: keys.json}}}}"
    mesh = SmallMesh(tmp_path, short, free_blocks(2), access=access)
    try:
        await mesh.start(("eu", "beta"), ("eu", EDGE))
        channel = mesh.direct(mesh.topology.edge("eu"), None, f"edge.eu.{DOMAIN}")
        await call(channel, "Operate", {"authorization": f"Bearer {issuer.token('ann')}"})
        assert _arrived(mesh).identity == OperatorId(DOMAIN, "ann")
    finally:
        await mesh.close()


async def test_it_is_signed_once_for_many_calls_and_anew_for_another(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    state = end_principals.state

    def counted(held: object, who: OperatorId | DeviceId, now: datetime) -> bytes:
        asked.append(who.uri)
        return state(held, who, now)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(vouching.end_principals, "state", counted)
    await mesh.start(("eu", "beta"), ("eu", EDGE))
    # One connection is one worker's, which keeps what it was told.
    for who in (OPERATOR, OperatorId(DOMAIN, "second")):
        channel = mesh.through_edge("eu", who)
        for _ in range(50):
            await call(channel, "Operate")
        assert _arrived(mesh).identity == who
        assert asked.count(who.uri) == 1


async def test_without_its_agent_an_edge_goes_on(mesh: SmallMesh) -> None:
    await mesh.start(("eu", "beta"), ("eu", EDGE))
    signing = mesh.sidecars["eu", EDGE]._vouching
    assert signing is not None
    await signing.stop()
    channel = mesh.through_edge("eu", OPERATOR)
    # The edge's certificate says who the hop is, and the edge says who came by it.
    assert OPERATOR.uri in await call(channel, "Operate")
    assert METADATA_KEY not in mesh.apps["eu"].metadata
    await signing.start()
    metadata = grpc.aio.Metadata()
    while METADATA_KEY not in mesh.apps["eu"].metadata:
        await channel.unary_unary(path("Operate"))(b"", timeout=10, metadata=metadata)
    assert _arrived(mesh).identity == OPERATOR
