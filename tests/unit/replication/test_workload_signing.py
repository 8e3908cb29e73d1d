"""Keys that a workload's certificate introduces, judged by the mesh's roots."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from isthmus.replication.v1 import signature_pb2

from mesh.identity import authority, folder, keys, statements
from mesh.identity.errors import StatementRefused
from mesh.identity.spiffe import WorkloadId
from mesh.replication.core.clocks import COUNTER_BITS, Origin
from mesh.replication.core.signatures import Head, Keyring, Verdict
from mesh.replication.signing import WorkloadSigning

DOMAIN = "isthmus.test"
START = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@dataclass
class Mesh:
    """A root, and workloads with identity folders, at a time that tests set."""

    path: Path
    now: datetime = START
    root: authority.Issuer = field(init=False)

    def __post_init__(self) -> None:
        self.root = authority.make_root(DOMAIN, self.now)

    def identity(self, region: str, workload: str = "channels") -> Path:
        """Writes a fresh certificate to the folder of a workload."""
        key = keys.make_key()
        issuer = authority.make_region_issuer(self.root, DOMAIN, region, self.now)
        who = WorkloadId(DOMAIN, region, workload)
        leaf = authority.sign(issuer, keys.signing_request(key), who, self.now)
        place = self.path / region / workload
        folder.write(place, leaf.chain_pem, keys.key_pem(key), leaf.trust_pem, leaf.former_pem)
        return place

    def keyring(self, region: str, *, group: str = "channels", workload: str = "channels"):
        place = self.path / region / workload
        signing = WorkloadSigning(group, WorkloadId(DOMAIN, region, workload), place, self.clock)
        return Keyring(group, signing)

    def clock(self) -> int:
        return int(self.now.timestamp() * 1e9)

    def head(self, region: str = "eu") -> Head:
        made = int(self.now.timestamp() * 1000) << COUNTER_BITS
        return Head(Origin(region, 7), 12, made, bytes(32))


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    made = Mesh(tmp_path)
    for region in ("ap", "eu", "us"):
        made.identity(region)
    return made


def signed(keyring: Keyring, head: Head) -> tuple[bytes, bytes]:
    signature = keyring.sign(head)
    return signature, keyring.statement(signature) or b""


def test_a_third_region_proves_by_the_roots_what_a_relay_brings(mesh: Mesh) -> None:
    signature, statement = signed(mesh.keyring("eu"), mesh.head())
    us = mesh.keyring("us")
    assert us.learn(statement, "ap") == ""
    assert us.examine(mesh.head(), signature) is Verdict.PROVEN
    assert us.examine(mesh.head()._replace(hash=b"x" * 32), signature) is Verdict.FALSE
    assert us.examine(mesh.head("ap"), signature) is Verdict.FALSE


def test_it_does_so_long_after_the_certificate_has_ended(mesh: Mesh) -> None:
    head = mesh.head()
    signature, statement = signed(mesh.keyring("eu"), head)
    mesh.now += timedelta(days=40)
    mesh.identity("us")
    us = mesh.keyring("us")
    assert us.learn(statement, "ap") == ""
    assert us.examine(head, signature) is Verdict.PROVEN


def test_what_was_believed_before_is_believed_under_another_root(mesh: Mesh) -> None:
    signature, statement = signed(mesh.keyring("eu"), mesh.head())
    mesh.root = authority.make_root(DOMAIN, mesh.now)
    place = mesh.identity("us")
    us = mesh.keyring("us")
    assert "no root vouches" in us.learn(statement, "ap")
    assert us.learn(statement, "eu") == "", "the link itself vouches for it"
    assert us.examine(mesh.head(), signature) is Verdict.PROVEN
    signing = WorkloadSigning("channels", WorkloadId(DOMAIN, "us", "channels"), place, mesh.clock)
    stored = Keyring("channels", signing, [key.statement for key in us.unstored.values()])
    assert stored.examine(mesh.head(), signature) is Verdict.PROVEN


def test_who_joins_later_believes_what_was_stated_below_a_retired_root(mesh: Mesh) -> None:
    signature, statement = signed(mesh.keyring("eu"), mesh.head())
    before = mesh.root.certificate
    mesh.root = replace(authority.make_root(DOMAIN, mesh.now), former=(before,))
    mesh.identity("us")
    us = mesh.keyring("us")
    assert us.learn(statement, "ap") == ""
    assert us.examine(mesh.head(), signature) is Verdict.PROVEN


def _stated(message: signature_pb2.OriginKey, **changes: object) -> bytes:
    said = signature_pb2.OriginKeyStatement.FromString(message.statement)
    for name, value in changes.items():
        setattr(said, name, value)
    message.statement = said.SerializeToString(deterministic=True)
    return message.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"region": "us"}, "did not sign it"),
        ({"public_key": bytes(31) + b"\x01"}, "did not sign it"),
        ({"public_key": b"short"}, "damaged"),
        ({"group": "devices"}, "group 'devices'"),
        ({"since_ms": 1, "until_ms": 2}, "no root vouches"),
        ({"since_ms": 1 << 60, "until_ms": (1 << 60) + 1}, "a time that cannot be"),
        ({"until_ms": 1 << 45}, "a time that cannot be"),
    ],
)
def test_a_statement_that_was_altered_is_refused(mesh: Mesh, changes: dict, reason: str) -> None:
    _, statement = signed(mesh.keyring("eu"), mesh.head())
    altered = _stated(signature_pb2.OriginKey.FromString(statement), **changes)
    us = mesh.keyring("us")
    assert reason in us.learn(altered, "ap")
    assert us.known == 0


def test_nobody_states_a_key_for_another(mesh: Mesh) -> None:
    """Neither the relay's own workload, nor another workload of the right region."""
    mesh.identity("eu", "devices")
    us = mesh.keyring("us")
    for region, workload in (("ap", "channels"), ("eu", "devices")):
        _, statement = signed(mesh.keyring(region, workload=workload), mesh.head(region))
        message = signature_pb2.OriginKey.FromString(statement)
        said = signature_pb2.OriginKeyStatement.FromString(message.statement)
        said.region = "eu"
        message.statement = said.SerializeToString(deterministic=True)
        held = folder.read(mesh.path / region / workload)
        again = statements.sign(held, b"isthmus origin key 1", message.statement)
        message.signature = again.signature
        reason = us.learn(message.SerializeToString(deterministic=True), "ap")
        assert "stated a key of spiffe://isthmus.test/region/eu/workload/channels" in reason


def test_a_statement_is_of_one_purpose(mesh: Mesh) -> None:
    held = folder.read(mesh.path / "eu" / "channels")
    signed = statements.sign(held, b"one", b"content")
    made = mesh.now
    found = statements.verify(signed, b"one", b"content", made, held.trust_pem)
    assert found == WorkloadId(DOMAIN, "eu", "channels")
    for purpose, content in ((b"onec", b"ontent"), (b"two", b"content"), (b"one", b"other")):
        with pytest.raises(StatementRefused, match="did not sign it"):
            statements.verify(signed, purpose, content, made, held.trust_pem)
    for time in (made - timedelta(hours=1), made + timedelta(hours=2)):
        with pytest.raises(StatementRefused, match="no root vouches"):
            statements.verify(signed, b"one", b"content", time, held.trust_pem)
    for certificates in ((), (b"no certificate",)):
        broken = statements.Signed(signed.signature, certificates)
        with pytest.raises(StatementRefused, match="cannot be read"):
            statements.verify(broken, b"one", b"content", made, held.trust_pem)


def test_without_a_valid_certificate_nothing_is_signed_until_there_is_one(mesh: Mesh) -> None:
    mesh.now += timedelta(hours=2)
    eu = mesh.keyring("eu")
    assert eu.sign(mesh.head()) == b""
    mesh.identity("eu")
    assert eu.sign(mesh.head()) == b"", "not tried again at once"
    mesh.now += timedelta(minutes=1)
    assert eu.sign(mesh.head())


def test_keys_are_replaced_in_time_and_by_a_clock_that_is_set_back(mesh: Mesh) -> None:
    eu = mesh.keyring("eu")
    eu.sign(mesh.head())
    for hours, known in ((1, 1), (13, 2), (13, 2), (-30, 3)):
        mesh.now = START + timedelta(hours=hours)
        if mesh.now < START:
            mesh.root = authority.make_root(DOMAIN, mesh.now)
        mesh.identity("eu")
        assert eu.sign(mesh.head())
        assert eu.known == known
