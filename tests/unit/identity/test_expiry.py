"""Each certificate ends with its issuer at the latest, and what should have been replaced shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.identity import authority, expiry, folder, keys
from mesh.identity.errors import IssuerExpired
from mesh.identity.expiry import SPARE, Level, Lifetime, Overdue
from mesh.identity.spiffe import WorkloadId

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
DOMAIN = "mesh.test"
WHO = WorkloadId(DOMAIN, "eu", "channels")
KEY = keys.make_key()
ROOT = authority.make_root(DOMAIN, NOW)
# Clocks of other hosts may be behind the one that made what is above.
_WHEN = st.timedeltas(-timedelta(minutes=2), timedelta(days=3700))


@settings(max_examples=150, deadline=None)
@given(issued=_WHEN, signed=_WHEN)
def test_a_leaf_lasts_within_its_issuer_and_that_within_the_root(
    issued: timedelta, signed: timedelta
) -> None:
    try:
        issuer = authority.make_region_issuer(ROOT, DOMAIN, "eu", NOW + issued)
        leaf = authority.sign(issuer, keys.signing_request(KEY), WHO, NOW + issued + signed)
    except IssuerExpired:
        end = min(issued + authority.REGION_LIFETIME, authority.ROOT_LIFETIME)
        assert issued + signed > end - timedelta(seconds=2)
        return
    chain = [*x509.load_pem_x509_certificates(leaf.chain_pem), ROOT.certificate]
    assert len(chain) == 3
    for below, above in pairwise(chain):
        assert below.not_valid_before_utc >= above.not_valid_before_utc
        assert below.not_valid_after_utc <= above.not_valid_after_utc


def test_a_folder_tells_its_whole_chain(tmp_path: Path) -> None:
    assert expiry.lifetimes(tmp_path) == ()
    issuer = authority.make_region_issuer(ROOT, DOMAIN, "eu", NOW)
    leaf = authority.sign(issuer, keys.signing_request(KEY), WHO, NOW)
    other = authority.make_root(DOMAIN, NOW - timedelta(days=1))
    roots = authority.pem(ROOT.certificate, other.certificate)
    folder.write(tmp_path, leaf.chain_pem, keys.key_pem(KEY), roots)
    found = expiry.lifetimes(tmp_path)
    assert [each.level for each in found] == [Level.LEAF, Level.ISSUING, Level.ROOT]
    assert [each.not_after for each in found] == [
        leaf.not_after,
        issuer.certificate.not_valid_after_utc,
        # Its own, which stands first.
        ROOT.certificate.not_valid_after_utc,
    ]
    assert list(expiry.overdue(found, NOW)) == []


@pytest.mark.parametrize("level", list(Level))
def test_each_level_is_warned_of_by_itself(level: Level) -> None:
    far = timedelta(days=4000)
    lefts = dict.fromkeys(Level, far)
    for left in (SPARE[level] - timedelta(seconds=1), timedelta(seconds=-5)):
        # What is below ends with it.
        for each in list(Level)[: list(Level).index(level) + 1]:
            lefts[each] = left
        chain = [Lifetime(each, NOW, NOW + lefts[each]) for each in Level]
        assert Overdue(level, left) in list(expiry.overdue(chain, NOW))
    chain = [Lifetime(each, NOW, NOW + SPARE[each]) for each in Level]
    assert list(expiry.overdue(chain, NOW)) == []


def test_who_outlives_an_issuer_is_named() -> None:
    year = timedelta(days=365)
    chain = [
        Lifetime(Level.LEAF, NOW, NOW + 2 * year),
        Lifetime(Level.ISSUING, NOW, NOW + year),
        Lifetime(Level.ROOT, NOW, NOW + year),
    ]
    (found,) = expiry.overdue(chain, NOW)
    assert (found.level, found.outlives) == (Level.LEAF, Level.ISSUING)
