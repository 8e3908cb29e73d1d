"""Preparing a region offline: what is made, what is kept, who needs a token."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mesh import topology as topologies
from mesh.authority import (
    AuthorityDamaged,
    device_token,
    issue_operator,
    keep,
    prepare,
    renew_issuer,
)
from mesh.authority.issuing import Issuing
from mesh.identity import authority, folder, keys, tokens
from mesh.identity.enrolment import Credentials
from mesh.identity.errors import TokenRefused
from mesh.identity.spiffe import DeviceId, WorkloadId
from mesh.identity.tokens import TokenStore
from mesh.local.issuers import Issuers
from mesh.local.layout import Layout

TOPOLOGY = topologies.load(Path(__file__).parents[3] / "mesh.yaml")
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
EVERYBODY_ELSE = {"devices", "channels", "overview", "control", "edge"}


def _store(state: Path, region: str) -> TokenStore:
    issuer = keep.load(keep.data_folder(state, region) / keep.ISSUING)
    assert issuer is not None
    return TokenStore(
        keep.data_folder(state, region) / keep.TOKENS, region, lambda: issuer.root_hash
    )


def _enrol(state: Path, region: str, workload: str, token: str, now: datetime) -> None:
    issuer = keep.load(keep.data_folder(state, region) / keep.ISSUING)
    assert issuer is not None
    with closing(_store(state, region)) as store:
        subject = store.redeem(token, TOPOLOGY.trust_domain, now, b"key").subject
    key = keys.make_key()
    leaf = authority.sign(issuer, keys.signing_request(key), subject, now)
    Credentials(
        subject.uri, leaf.chain_pem, keys.key_pem(key), leaf.trust_pem, leaf.not_after
    ).write(state / region / workload / "identity")


def test_a_fresh_region_gets_an_authority_and_tokens_for_everybody_else(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, TOPOLOGY, "eu", NOW)
    assert prepared.tokens.keys() == EVERYBODY_ELSE
    held = folder.read(tmp_path / "eu" / "authority" / "identity")
    assert held.spiffe_id == WorkloadId(TOPOLOGY.trust_domain, "eu", "authority").uri
    assert prepared.root_hash in authority.fingerprints(held.chain_pem)
    for name, token in prepared.tokens.items():
        parsed = tokens.parse(token)
        assert (parsed.region, parsed.kind, parsed.name) == ("eu", "workload", name)
        assert parsed.root_hash == prepared.root_hash


def test_keys_are_private(tmp_path: Path) -> None:
    prepare(tmp_path, TOPOLOGY, "eu", NOW)
    for path in (keep.root_file(tmp_path), keep.data_folder(tmp_path, "eu") / keep.ISSUING):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
    assert b"PRIVATE" not in (tmp_path / "root" / "root.crt").read_bytes()


def test_who_holds_an_identity_needs_no_token_until_it_runs_out(tmp_path: Path) -> None:
    first = prepare(tmp_path, TOPOLOGY, "eu", NOW)
    _enrol(tmp_path, "eu", "channels", first.tokens["channels"], NOW)
    again = prepare(tmp_path, TOPOLOGY, "eu", NOW + timedelta(minutes=10))
    assert again.tokens.keys() == EVERYBODY_ELSE - {"channels"}
    assert again.root_hash == first.root_hash
    late = prepare(tmp_path, TOPOLOGY, "eu", NOW + timedelta(minutes=58))
    assert late.tokens.keys() == EVERYBODY_ELSE


def test_regions_prepared_at_once_share_one_root(tmp_path: Path) -> None:
    def one(region: str) -> str:
        return prepare(tmp_path, TOPOLOGY, region, NOW).root_hash

    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(one, TOPOLOGY.region_names))) == 1


def test_under_a_new_root_everybody_enrols_again(tmp_path: Path) -> None:
    first = prepare(tmp_path, TOPOLOGY, "eu", NOW)
    for name, token in first.tokens.items():
        _enrol(tmp_path, "eu", name, token, NOW)
    assert not prepare(tmp_path, TOPOLOGY, "eu", NOW).tokens
    keep.root_file(tmp_path).unlink()
    second = prepare(tmp_path, TOPOLOGY, "eu", NOW)
    assert second.root_hash != first.root_hash
    assert second.tokens.keys() == EVERYBODY_ELSE
    held = folder.read(tmp_path / "eu" / "authority" / "identity")
    assert second.root_hash in authority.fingerprints(held.trust_pem)


def test_an_issuing_certificate_past_its_half_life_is_replaced_below_the_same_root(
    tmp_path: Path,
) -> None:
    first = prepare(tmp_path, TOPOLOGY, "eu", NOW)
    before = keep.load(keep.data_folder(tmp_path, "eu") / keep.ISSUING)
    later = prepare(tmp_path, TOPOLOGY, "eu", NOW + timedelta(days=200))
    after = keep.load(keep.data_folder(tmp_path, "eu") / keep.ISSUING)
    assert before is not None
    assert after is not None
    assert before.certificate != after.certificate
    assert later.root_hash == first.root_hash


def test_an_issuing_certificate_is_replaced_while_its_region_runs(tmp_path: Path) -> None:
    assert not renew_issuer(tmp_path, TOPOLOGY, "eu", NOW)
    prepare(tmp_path, TOPOLOGY, "eu", NOW)
    path = keep.data_folder(tmp_path, "eu") / keep.ISSUING
    first = keep.load(path)
    assert first is not None
    issuing = Issuing(path, first)
    assert not renew_issuer(tmp_path, TOPOLOGY, "eu", NOW + timedelta(days=100))
    assert issuing.current() == first
    assert renew_issuer(tmp_path, TOPOLOGY, "eu", NOW + timedelta(days=200))
    second = issuing.current()
    assert second.certificate != first.certificate
    assert second.root == first.root
    assert renew_issuer(tmp_path, TOPOLOGY, "eu", NOW + timedelta(days=201), early=True)
    assert issuing.current().certificate not in (first.certificate, second.certificate)
    # Never the root: who runs trusts that one.
    late = NOW + authority.ROOT_LIFETIME - timedelta(days=1)
    assert renew_issuer(tmp_path, TOPOLOGY, "eu", late)
    assert issuing.current().root == first.root


def test_an_authority_goes_on_with_the_issuer_that_it_has(tmp_path: Path) -> None:
    prepare(tmp_path, TOPOLOGY, "eu", NOW)
    path = keep.data_folder(tmp_path, "eu") / keep.ISSUING
    first = keep.load(path)
    assert first is not None
    issuing = Issuing(path, first)
    strange = authority.make_root(TOPOLOGY.trust_domain, NOW)
    keep.save(path, authority.make_region_issuer(strange, TOPOLOGY.trust_domain, "eu", NOW))
    assert issuing.current() == first
    path.write_text("damaged")
    assert issuing.current() == first
    path.unlink()
    assert issuing.current() == first


async def test_the_supervisor_replaces_those_that_are_due(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(TOPOLOGY.path.read_text())
    layout = Layout.of(topologies.load(tmp_path / "mesh.yaml"))
    before = {}
    for region in ("eu", "us"):
        prepare(layout.state, layout.topology, region, NOW)
        before[region] = keep.load(keep.data_folder(layout.state, region) / keep.ISSUING)
    (keep.data_folder(layout.state, "us") / keep.ISSUING).write_text("damaged")
    # One that is damaged, and one that was never started, keep nobody else waiting.
    await Issuers(layout, lambda: NOW + timedelta(days=200)).look()
    after = keep.load(keep.data_folder(layout.state, "eu") / keep.ISSUING)
    assert after is not None
    assert after != before["eu"]


def test_a_devices_token_is_its_own_and_works_once(tmp_path: Path) -> None:
    token = device_token(tmp_path, TOPOLOGY, "us", "encoder-1", NOW)
    with closing(_store(tmp_path, "us")) as store:
        subject = store.redeem(token, TOPOLOGY.trust_domain, NOW, b"key").subject
        assert subject == DeviceId(TOPOLOGY.trust_domain, "encoder-1")
        with pytest.raises(TokenRefused):
            store.redeem(token, TOPOLOGY.trust_domain, NOW, b"other key")


def test_an_operator_gets_an_identity_folder(tmp_path: Path) -> None:
    written = issue_operator(tmp_path, TOPOLOGY, "first", NOW)
    assert written == tmp_path / "operator"
    held = folder.read(written)
    assert held.spiffe_id == f"spiffe://{TOPOLOGY.trust_domain}/operator/first"
    root = keep.load(keep.root_file(tmp_path))
    assert root is not None
    assert held.trust_pem == authority.pem(root.certificate)


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    prepare(tmp_path, TOPOLOGY, "eu", NOW)
    keep.root_file(tmp_path).write_bytes(b"nonsense")
    with pytest.raises(AuthorityDamaged, match=r"root\.pem is damaged .*restore it from a backup"):
        prepare(tmp_path, TOPOLOGY, "eu", NOW)
