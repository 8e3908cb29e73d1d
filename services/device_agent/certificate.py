"""The device's certificate: the first one by join token, each next one at half-life."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime

import structlog

from mesh.runtime.client import Edges, NoEdge, NoIdentity
from mesh.runtime.identity import (
    Held,
    IdentityError,
    PrivateKey,
    enrol,
    held,
    make_key,
    pins_another_root,
    renew,
)
from services.device_agent.config import Config, ConfigError

_log = structlog.get_logger("isthmus.certificate")

_ENROL_PAUSE_S = (0.5, 2.0)
_RENEW_PAUSE_S = (5.0, 30.0)


def _now() -> datetime:
    return datetime.now(UTC)


async def obtain(config: Config) -> Held:
    """The identity at hand, or a new one; waits for an authority that is not up yet.

    Raises `ConfigError` if there is neither a valid identity nor a way to get one, or if the
    identity is another's.
    """
    try:
        found = held(config.identity, _now())
    except IdentityError as error:
        raise ConfigError(str(error)) from None
    if found is not None and _is_outdated(found, config):
        _log.warning("the mesh has a new root: enrolling again")
        found = None
    key = make_key()
    while found is None:
        found = await _enrol(config, key)
    if not found.spiffe_id.endswith(f"/device/{config.device_id}"):
        raise ConfigError(
            f"{config.identity} holds {found.spiffe_id}, and this is device "
            f"{config.device_id!r}: give each device a state folder of its own"
        )
    return found


def _is_outdated(found: Held, config: Config) -> bool:
    if config.enrolment is None or config.join_token_file is None:
        return False
    try:
        return pins_another_root(config.join_token_file.read_text(), found)
    except (OSError, ValueError):
        return False


async def _enrol(config: Config, key: PrivateKey) -> Held | None:
    if config.enrolment is None or config.join_token_file is None:
        raise ConfigError(
            f"{config.identity} holds no valid certificate: give --join-token-file and "
            "--enrolment (`isthmus devices token` makes a token)"
        )
    try:
        # Read anew each time: whoever runs the device may have put a fresh one there.
        token = config.join_token_file.read_text()
        found = await enrol(config.identity, config.enrolment, token, key)
    except (OSError, IdentityError) as error:
        _log.warning("not enrolled yet", why=str(error))
        await asyncio.sleep(random.uniform(*_ENROL_PAUSE_S))  # noqa: S311 - jitter
        return None
    config.join_token_file.unlink(missing_ok=True)
    _log.info("enrolled", spiffe_id=found.spiffe_id, not_after=found.not_after.isoformat())
    return found


async def keep_fresh(config: Config, found: Held) -> None:
    """Renews at half-life, for ever; a failure is tried again until it works.

    What somebody else has put there meanwhile is as good.
    """
    while True:
        wait = (found.half_life - _now()).total_seconds()
        # Devices that enrolled together shall not come back together.
        await asyncio.sleep(max(0.0, wait) * random.uniform(0.9, 1.0))  # noqa: S311 - jitter
        fresh = _issued_by_others(config, found) or await _renew(config)
        if fresh is None:
            await asyncio.sleep(random.uniform(*_RENEW_PAUSE_S))  # noqa: S311 - jitter
        else:
            found = fresh
            _log.info("renewed", not_after=found.not_after.isoformat())


def _issued_by_others(config: Config, found: Held) -> Held | None:
    try:
        there = held(config.identity, _now())
    except IdentityError:
        return None
    return there if there is not None and there.not_after > found.not_after else None


async def _renew(config: Config) -> Held | None:
    """Through the first edge behind which an authority answers."""
    for edge in config.edges:
        edges = Edges([edge.address], config.identity)
        try:
            async with edges.connect() as channel:
                return await renew(config.identity, channel)
        except (NoEdge, NoIdentity, IdentityError, OSError) as error:
            _log.warning("not renewed", edge=edge.region, why=str(error))
    return None
