"""How long the certificates of an identity last, and which of them should have been replaced.

A leaf lasts an hour and is renewed at half of that; a region's issuing certificate a year, and is
replaced at half of that; a root ten years. Each ends with its issuer at the latest, so the end of
one above is the end of all below.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from itertools import pairwise
from pathlib import Path

from cryptography import x509

from mesh.identity import authority, folder


class Level(Enum):
    """A certificate's place in its chain; each outlives those before it."""

    LEAF = "leaf"
    ISSUING = "issuing"
    ROOT = "root"


@dataclass(frozen=True)
class Lifetime:
    """From when until when a certificate is valid."""

    level: Level
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True)
class Overdue:
    """A certificate that ends soon (`left` is negative if it has), or outlives its issuer."""

    level: Level
    left: timedelta
    outlives: Level | None = None


SPARE = {
    # Renewal has failed for six minutes: it is due at half an hour.
    Level.LEAF: authority.LEAF_LIFETIME * 2 / 5,
    # Leaves are shorter from here on in the last hour alone; this leaves time to ask why.
    Level.ISSUING: timedelta(days=60),
    Level.ROOT: timedelta(days=180),
}
"""Who has less than this left should have been replaced."""


def lifetimes(identity: Path) -> tuple[Lifetime, ...]:
    """Of the certificates in an identity folder, as far as they are there, the leaf first.

    Of several roots its own counts, which stands first.
    """
    try:
        chain = x509.load_pem_x509_certificates((identity / folder.CERTIFICATE).read_bytes())
        roots = x509.load_pem_x509_certificates((identity / folder.TRUST).read_bytes())
    except (OSError, ValueError):
        return ()
    found = (*zip((Level.LEAF, Level.ISSUING), chain, strict=False), (Level.ROOT, roots[0]))
    return tuple(
        Lifetime(level, each.not_valid_before_utc, each.not_valid_after_utc)
        for level, each in found
    )


def overdue(found: Sequence[Lifetime], now: datetime) -> Iterator[Overdue]:
    """What somebody should look at, the leaf first."""
    for below, above in pairwise(found):
        if below.not_after > above.not_after:
            yield Overdue(below.level, below.not_after - now, above.level)
    for each in found:
        left = each.not_after - now
        if left < SPARE[each.level]:
            yield Overdue(each.level, left)
