"""The certificate of a device: enrolment with a pinned root, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from isthmus.mesh.v1.authority_pb2 import EnrolRequest, EnrolResponse

from mesh.identity import tokens
from mesh.identity.authority import check, fingerprint, pem
from mesh.runtime.client import Edges, NoEdge
from mesh.runtime.identity import (
    AuthorityUnreachable,
    IdentityError,
    TokenRefused,
    enrol,
    held,
    renew,
)
from services.device_agent import certificate
from services.device_agent import config as configuration
from services.device_agent.certificate import obtain
from services.device_agent.config import ConfigError
from tests.support.gateway import FakeEnrolment, FakeRenewal, TestAuthority


def token(authority: TestAuthority, root_hash: str = "") -> str:
    pinned = root_hash or fingerprint(authority.root.certificate)
    return str(tokens.JoinToken(authority.region, "device", "encoder-1", pinned, "secret"))


class LossyEnrolment(FakeEnrolment):
    """Loses its first answer."""

    asked: list[bytes]

    async def Enrol(
        self,
        request: EnrolRequest,
        context: grpc.aio.ServicerContext[EnrolRequest, EnrolResponse],
    ) -> EnrolResponse:
        self.asked = [*getattr(self, "asked", []), request.signing_request]
        if len(self.asked) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "lost")
        return await super().Enrol(request, context)


async def test_a_token_becomes_a_certificate(tmp_path: Path) -> None:
    authority = TestAuthority()
    enrolment = FakeEnrolment(authority, "encoder-1")
    await enrolment.start()
    try:
        found = await enrol(tmp_path, enrolment.address, token(authority))
    finally:
        await enrolment.stop()
    assert found.spiffe_id == "spiffe://isthmus.test/device/encoder-1"
    now = datetime.now(UTC)
    assert held(tmp_path, now) == found
    assert held(tmp_path, now + timedelta(hours=2)) is None


async def test_another_root_is_not_believed(tmp_path: Path) -> None:
    authority = TestAuthority()
    enrolment = FakeEnrolment(authority, "encoder-1")
    await enrolment.start()
    try:
        with pytest.raises(TokenRefused, match="not below the authority"):
            await enrol(tmp_path, enrolment.address, token(authority, "0" * 64))
    finally:
        await enrolment.stop()
    assert held(tmp_path, datetime.now(UTC)) is None


async def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(AuthorityUnreachable):
        await enrol(tmp_path, "127.0.0.1:1", token(TestAuthority()))


async def test_a_renewal_is_for_the_identity_at_hand(tmp_path: Path) -> None:
    authority = TestAuthority()
    authority.write_device(tmp_path, "encoder-1")
    renewing = FakeRenewal(authority, "encoder-1")
    await renewing.start()
    try:
        async with Edges([renewing.address], tmp_path).connect() as channel:
            before = held(tmp_path, datetime.now(UTC))
            found = await renew(tmp_path, channel)
            assert before is not None and found.key_pem != before.key_pem
            authority.write_device(tmp_path, "encoder-2")
            with pytest.raises(IdentityError, match="device/encoder-1, not"):
                await renew(tmp_path, channel)
    finally:
        await renewing.stop()


def _settings(tmp_path: Path, **more: str) -> configuration.Config:
    environment = {
        "ISTHMUS_DEVICE_ID": "encoder-1",
        "ISTHMUS_REGION": "eu",
        "ISTHMUS_STATE_DIR": str(tmp_path),
        "ISTHMUS_MEDIA_ROOT": str(tmp_path),
        "ISTHMUS_OUTPUT_DIR": str(tmp_path),
        "ISTHMUS_EDGES": "eu=127.0.0.1:1",
    }
    return configuration.read([], environment | more)


async def test_a_device_enrols_once_with_its_token(tmp_path: Path) -> None:
    authority = TestAuthority()
    enrolment = FakeEnrolment(authority, "encoder-1")
    await enrolment.start()
    path = tmp_path / "token"
    path.write_text(token(authority) + "\n")
    try:
        config = _settings(
            tmp_path, ISTHMUS_ENROLMENT=enrolment.address, ISTHMUS_JOIN_TOKEN_FILE=str(path)
        )
        found = await obtain(config)
    finally:
        await enrolment.stop()
    assert not path.exists()
    assert await obtain(config) == found


async def test_a_device_asks_again_with_the_same_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer that used the token up may be lost; the token is still good for that key."""
    monkeypatch.setattr(certificate, "_ENROL_PAUSE_S", (0.0, 0.0))
    authority = TestAuthority()
    enrolment = LossyEnrolment(authority, "encoder-1")
    await enrolment.start()
    path = tmp_path / "token"
    path.write_text(token(authority))
    try:
        await obtain(
            _settings(
                tmp_path, ISTHMUS_ENROLMENT=enrolment.address, ISTHMUS_JOIN_TOKEN_FILE=str(path)
            )
        )
    finally:
        await enrolment.stop()
    first, second = (check(request) for request in enrolment.asked)
    assert first == second


async def test_a_token_of_another_root_is_used_though_there_is_a_certificate(
    tmp_path: Path,
) -> None:
    """The mesh got a new root: what the certificate at hand opens is no more."""
    before, after = TestAuthority(), TestAuthority()
    before.write_device(tmp_path / "identity", "encoder-1")
    enrolment = FakeEnrolment(after, "encoder-1")
    await enrolment.start()
    path = tmp_path / "token"
    config = _settings(
        tmp_path, ISTHMUS_ENROLMENT=enrolment.address, ISTHMUS_JOIN_TOKEN_FILE=str(path)
    )
    try:
        for unused in (token(before), "no token"):
            path.write_text(unused)
            assert (await obtain(config)).trust_pem == pem(before.root.certificate)
            assert path.exists()
        path.write_text(token(after))
        assert (await obtain(config)).trust_pem == pem(after.root.certificate)
    finally:
        await enrolment.stop()
    assert not path.exists()


async def test_an_edge_of_another_root_is_told_plainly(tmp_path: Path) -> None:
    edge = FakeRenewal(TestAuthority(), "encoder-1")
    await edge.start()
    TestAuthority().write_device(tmp_path, "encoder-1")
    try:
        with pytest.raises(NoEdge, match=r"another root than .*trust\.crt.* enrol again"):
            async with Edges([edge.address], tmp_path).connect():
                pass
    finally:
        await edge.stop()


async def test_a_device_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--join-token-file"):
        await obtain(_settings(tmp_path))
    TestAuthority().write_device(tmp_path / "identity", "encoder-2")
    with pytest.raises(ConfigError, match="a state folder of its own"):
        await obtain(_settings(tmp_path))
