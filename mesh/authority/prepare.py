"""What `isthmus up` does before anything runs: roots, issuing certificates, first tokens.

state/root/                        the root's certificate and key: read here, by nothing else
state/<region>/authority/data/     the region's issuing certificate, its key and the tokens
state/<region>/authority/identity  the authority's own identity
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.exceptions import InvalidSignature

from mesh.authority import keep
from mesh.identity import authority, folder, keys
from mesh.identity.authority import Issuer
from mesh.identity.enrolment import AUTHORITY, Credentials
from mesh.identity.errors import IdentityFolderError
from mesh.identity.spiffe import DeviceId, Identity, OperatorId, WorkloadId
from mesh.identity.tokens import TokenStore
from mesh.place import workload_and_version
from mesh.topology import Topology

TOKEN_LIFETIME = timedelta(hours=1)
FRESH_FOR = timedelta(minutes=5)
"""An identity with less than this left gets a join token: its sidecar may start late."""
_ROOT_SPARE = timedelta(days=1)


@dataclass(frozen=True)
class Prepared:
    """A region that is ready to start.

    `tokens` holds a join token for each instance but the authority, the edge included, by name.
    Those whose identity lasts for `FRESH_FOR` at least need none, and are not in it.
    """

    region: str
    tokens: Mapping[str, str]
    root_hash: str


def prepare(state: Path, topology: Topology, region: str, now: datetime) -> Prepared:
    """Makes what is missing of a region's authority, and tokens for what has no identity.

    `state` is `.isthmus/`. May be repeated, also while the region runs. An issuing certificate past
    half of its life is replaced, and a root that was not replaced in time (`roots`): then everybody
    enrols again.
    Raises `AuthorityDamaged` if a file of the authority cannot be read.
    """
    with keep.locked(state):
        issuer = _issuer(state, topology, region, now)
    own = WorkloadId(topology.trust_domain, region, AUTHORITY)
    if not _fresh(state / region / AUTHORITY, own, issuer, now):
        _write_identity(issuer, own, now, state / region / AUTHORITY / "identity")
    tokens: dict[str, str] = {}
    with closing(_store(state, region, issuer)) as store:
        for name in topology.instances(region):
            # A version of a workload is that workload, to everybody who meets it.
            subject = WorkloadId(topology.trust_domain, region, workload_and_version(name)[0])
            if name != AUTHORITY and not _fresh(state / region / name, subject, issuer, now):
                tokens[name] = str(store.issue(subject, now, now + TOKEN_LIFETIME))
        return Prepared(region, tokens, store.root_hash())


def renew_issuer(
    state: Path, topology: Topology, region: str, now: datetime, *, early: bool = False
) -> bool:
    """Replaces a region's issuing certificate past half of its life, or `early`; says whether.

    The region may run: its authority signs by the new one from then on, and what the former one
    signed stays good. The root stays as it is. Raises `AuthorityDamaged`, and
    `IssuerExpired` if the root has ended.
    """
    with keep.locked(state):
        root = keep.load(keep.root_file(state))
        if root is None:
            return False
        path = keep.data_folder(state, region) / keep.ISSUING
        issuer = keep.load(path)
        if issuer is None or (not early and _lasts(issuer, root, now)):
            return False
        keep.save(path, authority.make_region_issuer(root, topology.trust_domain, region, now))
        return True


def device_token(
    state: Path, topology: Topology, region: str, device_id: str, now: datetime
) -> str:
    """A join token for a device, valid for an hour in `region`, which is prepared if need be."""
    with keep.locked(state):
        issuer = _issuer(state, topology, region, now)
    with closing(_store(state, region, issuer)) as store:
        subject = DeviceId(topology.trust_domain, device_id)
        return str(store.issue(subject, now, now + TOKEN_LIFETIME))


def issue_operator(
    state: Path, topology: Topology, name: str, now: datetime, into: Path | None = None
) -> Path:
    """Writes an operator's identity, signed by the first region, into an identity folder.

    The folder is `<state>/operator` unless given; it is returned. Call again to renew.
    """
    with keep.locked(state):
        issuer = _issuer(state, topology, topology.region_names[0], now)
    into = into or state / "operator"
    _write_identity(issuer, OperatorId(topology.trust_domain, name), now, into)
    return into


def _issuer(state: Path, topology: Topology, region: str, now: datetime) -> Issuer:
    root = keep.load(keep.root_file(state))
    if root is None or root.certificate.not_valid_after_utc - now < _ROOT_SPARE:
        root = authority.make_root(topology.trust_domain, now)
        keep.save_root(state, root)
    path = keep.data_folder(state, region) / keep.ISSUING
    issuer = keep.load(path)
    if issuer is None or not _lasts(issuer, root, now):
        issuer = authority.make_region_issuer(root, topology.trust_domain, region, now)
        keep.save(path, issuer)
    return issuer


def _lasts(issuer: Issuer, root: Issuer, now: datetime) -> bool:
    certificate = issuer.certificate
    try:
        certificate.verify_directly_issued_by(root.certificate)
    except (InvalidSignature, ValueError, TypeError):
        return False
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return issuer.root == root.certificate and now < certificate.not_valid_before_utc + life / 2


def _fresh(instance: Path, subject: WorkloadId, issuer: Issuer, now: datetime) -> bool:
    try:
        held = folder.read(instance / "identity")
    except IdentityFolderError:
        return False
    return (
        held.spiffe_id == subject.uri
        and held.not_after - now > FRESH_FOR
        and issuer.root_hash in authority.fingerprints(held.trust_pem)
    )


def _write_identity(issuer: Issuer, subject: Identity, now: datetime, into: Path) -> None:
    key = keys.make_key()
    leaf = authority.sign(issuer, keys.signing_request(key), subject, now)
    Credentials(
        subject.uri,
        leaf.chain_pem,
        keys.key_pem(key),
        leaf.trust_pem,
        leaf.not_after,
        leaf.former_pem,
    ).write(into)


def _store(state: Path, region: str, issuer: Issuer) -> TokenStore:
    def shown() -> str:
        # Below the root before, until it renews after a replacement.
        try:
            return folder.read(state / region / AUTHORITY / "identity").root_hash
        except IdentityFolderError:
            return issuer.root_hash

    return TokenStore(keep.data_folder(state, region) / keep.TOKENS, region, shown)
