"""The authority's methods, called as its sidecar would."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from isthmus.mesh.v1 import authority_pb2 as pb

from mesh.authority.service import AuthorityService, EnrolmentService, Signer
from mesh.identity import authority, keys
from mesh.identity.spiffe import DeviceId, Identity, OperatorId, WorkloadId
from mesh.identity.tokens import TokenStore
from mesh.runtime import PermissionDenied, Unauthenticated
from mesh.runtime.context import Call, current
from mesh.runtime.principal import Principal

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DOMAIN = "mesh.test"
DEVICE = DeviceId(DOMAIN, "encoder-1")


class Authority:
    """A region's authority with a clock to wind."""

    def __init__(self, folder: Path) -> None:
        self.now = START
        root = authority.make_root(DOMAIN, START)
        issuer = authority.make_region_issuer(root, DOMAIN, "eu", START)
        self.tokens = TokenStore(folder / "tokens.sqlite", "eu", lambda: issuer.root_hash)
        self.revoked: set[str] = set()
        signer = Signer(lambda: issuer, Mock(), "eu", lambda: self.now, self.revoked.__contains__)
        self._enrols = EnrolmentService(signer, self.tokens, DOMAIN)
        self._renews = AuthorityService(signer, self.tokens, Mock(), "eu")

    def token(self, subject: Identity = DEVICE) -> str:
        return str(self.tokens.issue(subject, self.now, self.now + HOUR))

    async def enrol(self, token: str, key: keys.PrivateKey | None = None) -> x509.Certificate:
        request = pb.EnrolRequest(join_token=token, signing_request=_request(key))
        return _leaf((await self._enrols.Enrol(request, Mock())).certificate)

    async def renew(
        self, enrolled_ms: int | None, caller: Principal | None = None
    ) -> x509.Certificate:
        device = Principal("device", "encoder-1", DEVICE.uri, "edge", enrolled_ms=enrolled_ms)
        caller = caller or device
        current.set(Call("/isthmus.mesh.v1.AuthorityService/Renew", caller))
        request = pb.RenewRequest(signing_request=_request())
        return _leaf((await self._renews.Renew(request, Mock())).certificate)


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Authority]:
    found = Authority(tmp_path)
    yield found
    found.tokens.close()


def _request(key: keys.PrivateKey | None = None) -> bytes:
    return keys.signing_request(key or keys.make_key())


def _leaf(certificate: pb.Certificate) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate.chain_pem.encode())


def _enrolled_ms(leaf: x509.Certificate) -> list[int]:
    found = leaf.subject.get_attributes_for_oid(NameOID.DN_QUALIFIER)
    return [int(str(attribute.value)) for attribute in found]


async def test_a_device_certificate_says_when_it_enrolled(region: Authority) -> None:
    token = region.token()
    region.now += timedelta(minutes=5)
    leaf = await region.enrol(token)
    assert _enrolled_ms(leaf) == [int(region.now.timestamp() * 1000)]
    workload = await region.enrol(region.token(WorkloadId(DOMAIN, "eu", "channels")))
    assert _enrolled_ms(workload) == []


async def test_who_got_no_answer_enrols_again_with_the_same_key(region: Authority) -> None:
    token, key = region.token(), keys.make_key()
    first = await region.enrol(token, key)
    region.now += timedelta(minutes=5)
    again = await region.enrol(token, key)
    assert again.public_key() == first.public_key() == key.public_key()
    # It is one enrolment.
    assert _enrolled_ms(again) == _enrolled_ms(first)
    with pytest.raises(Unauthenticated, match="unknown, used or expired"):
        await region.enrol(token)


async def test_a_renewal_keeps_the_time_of_enrolment(region: Authority) -> None:
    region.now += HOUR
    assert _enrolled_ms(await region.renew(1_700_000_000_123)) == [1_700_000_000_123]
    assert _enrolled_ms(await region.renew(None)) == []


async def test_a_token_is_not_exchanged_for_a_certificate(region: Authority) -> None:
    """Whoever stole it would be in for ever."""
    ann = OperatorId(DOMAIN, "ann")
    with pytest.raises(PermissionDenied, match="only who holds a certificate"):
        await region.renew(None, Principal("operator", "ann", ann.uri, "edge", by_token=True))
    await region.renew(None, Principal("operator", "ann", ann.uri, "edge"))


async def test_who_was_revoked_gets_no_certificate_any_more(region: Authority) -> None:
    token = region.token()
    await region.enrol(region.token())
    region.revoked.add(DEVICE.uri)
    for asked in (region.enrol(token), region.renew(None)):
        with pytest.raises(PermissionDenied, match="was revoked"):
            await asked
