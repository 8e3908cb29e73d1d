"""A device keeps its certificate fresh, also where another authority issues it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import AsyncMock, patch

import pytest

from mesh.identity import authority, folder, keys
from mesh.identity.spiffe import DeviceId
from mesh.runtime.identity import held
from services.device_agent import certificate, config

DOMAIN = "isthmus.test"


class Ended(Exception):
    """Enough was seen."""


async def test_what_others_issue_is_taken_instead_of_a_renewal(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    root = authority.make_root(DOMAIN, now - timedelta(hours=2))
    issuer = authority.make_region_issuer(root, DOMAIN, "eu", now - timedelta(hours=2))
    names = ("device-id", "region", "state", "media-root", "output", "edges")
    values = ("cam-1", "eu", tmp_path, tmp_path, tmp_path, "eu=127.0.0.1:1")
    given = config.read([f"--{n}={v}" for n, v in zip(names, values, strict=True)])

    def issue(minutes_ago: int) -> None:
        key, at = keys.make_key(), now - timedelta(minutes=minutes_ago)
        leaf = authority.sign(issuer, keys.signing_request(key), DeviceId(DOMAIN, "cam-1"), at)
        folder.write(given.identity, leaf.chain_pem, keys.key_pem(key), leaf.trust_pem)

    issue(50)
    first = held(given.identity, now)
    assert first is not None
    issue(0)  # by somebody else
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if seconds > 60:
            raise Ended

    renewals = AsyncMock(side_effect=Ended)
    with (
        patch.object(certificate, "_renew", renewals),
        patch.object(certificate.asyncio, "sleep", sleep),
        pytest.raises(Ended),
    ):
        await certificate.keep_fresh(given, first)
    assert not renewals.called
    due, next_one = waits
    assert due == 0
    assert next_one > 20 * 60
