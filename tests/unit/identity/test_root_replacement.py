"""One root follows another: at no time is a leaf that lasts refused by another one's trust."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from mesh import topology as topologies
from mesh.authority import keep, prepare, roots
from mesh.authority.issuing import Issuing
from mesh.authority.roots import SETTLED, Step
from mesh.identity import authority, keys
from mesh.identity.authority import Leaf
from mesh.identity.spiffe import WorkloadId

TOPOLOGY = topologies.load(Path(__file__).parents[3] / "mesh.yaml")
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
REGIONS = ("eu", "us")


@dataclass(frozen=True)
class Holder:
    """Somebody who got a leaf."""

    region: str
    leaf: Leaf

    def accepts(self, other: Holder, now: datetime) -> bool:
        """Whether it would let the other one in."""
        leaf, *issuers = x509.load_pem_x509_certificates(other.leaf.chain_pem)
        trusted = Store(x509.load_pem_x509_certificates(self.leaf.trust_pem))
        verifier = PolicyBuilder().store(trusted).time(now).build_client_verifier()
        try:
            verifier.verify(leaf, issuers)
        except x509.verification.VerificationError:
            return False
        return True


@pytest.fixture
def state(tmp_path: Path) -> Path:
    for region in REGIONS:
        prepare(tmp_path, TOPOLOGY, region, NOW)
    return tmp_path


def renewed(state: Path, region: str, now: datetime) -> Holder:
    issuer = keep.load(keep.data_folder(state, region) / keep.ISSUING)
    assert issuer is not None
    who = WorkloadId(TOPOLOGY.trust_domain, region, "channels")
    return Holder(region, authority.sign(issuer, keys.signing_request(keys.make_key()), who, now))


def root_of(state: Path) -> x509.Certificate:
    root = keep.load(keep.root_file(state))
    assert root is not None
    return root.certificate


def test_everybody_who_holds_a_leaf_is_let_in_all_the_time(state: Path) -> None:
    before = root_of(state)
    roots.begin(state, TOPOLOGY, NOW)
    holders: list[Holder] = []
    steps: list[Step] = []
    now = NOW
    while not steps or steps[-1] is not Step.NONE or len(steps) < 14:
        for region in REGIONS:
            holders.append(renewed(state, region, now))
        now += timedelta(minutes=20)
        steps.append(roots.advance(state, TOPOLOGY, now))
        holders = [each for each in holders if each.leaf.not_after > now]
        for one, other in itertools.product(holders, repeat=2):
            assert one.accepts(other, now), (steps, one.region, other.region)
    assert list(dict.fromkeys(steps)) == [Step.ANNOUNCED, Step.REPLACED, Step.NONE]
    assert root_of(state) != before
    assert x509.load_pem_x509_certificates(holders[-1].leaf.former_pem) == [before]
    # It is trusted no more.
    assert x509.load_pem_x509_certificates(holders[-1].leaf.trust_pem) == [root_of(state)]


def test_a_step_lasts_until_every_leaf_of_before_has_ended(state: Path) -> None:
    assert roots.begin(state, TOPOLOGY, NOW) is Step.ANNOUNCED
    almost = NOW + SETTLED - timedelta(seconds=1)
    assert roots.advance(state, TOPOLOGY, almost) is Step.ANNOUNCED
    assert roots.advance(state, TOPOLOGY, NOW + SETTLED) is Step.REPLACED
    assert roots.advance(state, TOPOLOGY, NOW + SETTLED) is Step.REPLACED
    assert roots.advance(state, TOPOLOGY, NOW + 2 * SETTLED) is Step.NONE
    assert roots.advance(state, TOPOLOGY, NOW + 9 * SETTLED) is Step.NONE


def test_what_is_under_way_is_not_begun_again(state: Path) -> None:
    roots.begin(state, TOPOLOGY, NOW)
    announced = keep.root_file(state).read_bytes()
    assert roots.begin(state, TOPOLOGY, NOW + timedelta(minutes=9)) is Step.ANNOUNCED
    assert keep.root_file(state).read_bytes() == announced
    roots.advance(state, TOPOLOGY, NOW, early=True)
    assert roots.begin(state, TOPOLOGY, NOW) is Step.REPLACED


def test_the_key_of_a_root_is_gone_once_another_one_signs(state: Path) -> None:
    root = keep.load(keep.root_file(state))
    assert root is not None
    roots.begin(state, TOPOLOGY, NOW)
    roots.advance(state, TOPOLOGY, NOW, early=True)
    held = b"".join(p.read_bytes() for p in state.rglob("*") if p.is_file())
    assert keys.key_pem(root.key) not in held


def test_a_root_is_replaced_in_time_and_not_before(state: Path) -> None:
    end = root_of(state).not_valid_after_utc
    assert not roots.due(state, end - roots.DUE)
    assert roots.due(state, end - roots.DUE + timedelta(seconds=1))


def test_a_mesh_that_was_never_prepared_has_nothing_to_replace(tmp_path: Path) -> None:
    assert not roots.due(tmp_path, NOW)
    assert roots.begin(tmp_path, TOPOLOGY, NOW) is Step.NONE
    assert roots.advance(tmp_path, TOPOLOGY, NOW) is Step.NONE


class Crash(Exception):
    pass


@pytest.mark.parametrize("writes", range(14))
def test_a_crash_at_any_write_is_made_good(state: Path, writes: int) -> None:
    """Three steps make some fourteen writes in two regions."""
    left = writes
    real = keep.replace

    def replace(path: Path, content: bytes, mode: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Crash
        real(path, content, mode)

    now, before = NOW, root_of(state)
    holders = [renewed(state, region, now) for region in REGIONS]
    with patch.object(keep, "replace", replace), pytest.raises(Crash):
        roots.begin(state, TOPOLOGY, now)
        for _ in range(2):
            now += SETTLED
            roots.advance(state, TOPOLOGY, now)
        raise Crash  # not reached by the last ones
    crashed = now
    roots.begin(state, TOPOLOGY, now)
    while root_of(state) == before or roots.advance(state, TOPOLOGY, now) is not Step.NONE:
        for region in REGIONS:
            holders.append(renewed(state, region, now))
        now += timedelta(minutes=20)
        roots.advance(state, TOPOLOGY, now)
        holders = [each for each in holders if each.leaf.not_after > now]
        for one, other in itertools.product(holders, repeat=2):
            assert one.accepts(other, now)
        assert now < crashed + 4 * SETTLED


def test_a_running_authority_signs_below_an_announced_root(state: Path) -> None:
    path = keep.data_folder(state, "eu") / keep.ISSUING
    first = keep.load(path)
    assert first is not None
    issuing = Issuing(path, first)
    roots.begin(state, TOPOLOGY, NOW)
    assert len(x509.load_pem_x509_certificates(_leaf(issuing).trust_pem)) == 2
    roots.advance(state, TOPOLOGY, NOW, early=True)
    replaced = _leaf(issuing)
    assert x509.load_pem_x509_certificates(replaced.trust_pem)[0] == root_of(state)
    roots.advance(state, TOPOLOGY, NOW, early=True)
    assert x509.load_pem_x509_certificates(_leaf(issuing).trust_pem) == [root_of(state)]


def _leaf(issuing: Issuing) -> Leaf:
    who = WorkloadId(TOPOLOGY.trust_domain, "eu", "channels")
    request = keys.signing_request(keys.make_key())
    return authority.sign(issuing.current(), request, who, NOW)
