"""Changes a second: written in eu, merged and durable in us, acknowledged to eu."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.bench.replication import payload
from tests.bench.replication.regions import Regions, running


async def fill(regions: Regions, entities: int = payload.ENTITIES) -> None:
    """Creates all things, from eu."""
    await regions["eu"].ask("prepare", numbers="all", entities=entities, seed=1)
    await regions["eu"].ask("load", pack=1024, window=16)
    await regions.settle()


async def measure(
    distribution: str,
    *,
    fields: tuple[str, ...] = (),
    writers: tuple[str, ...] = ("eu",),
    seconds: float,
    entities: int = payload.ENTITIES,
    profile: tuple[str, Path] | None = None,
    load: dict[str, Any] | None = None,
) -> dict[str, float]:
    """One run between fresh regions; `writers` write the same keys at once.

    Gives changes a second, and microseconds of processor time that each region took for one.
    `profile` names a region and the file for its profile.
    """
    async with running("eu", "us") as regions:
        await fill(regions, entities)
        for name in writers:
            await regions[name].ask(
                "prepare", numbers=distribution, entities=entities, seed=7, fields=list(fields)
            )
        if profile:
            await regions[profile[0]].ask("profile", on=True)
        before = await regions.all("state")
        done = await asyncio.gather(
            *(regions[name].ask("load", seconds=seconds, **(load or {})) for name in writers)
        )
        after = await regions.all("state")
        if profile:
            await regions[profile[0]].ask("profile", on=False, file=str(profile[1]))
        await regions.settle()
    changes = sum(each["changes"] for each in done)
    lasted = max(each["ended"] for each in done) - min(each["started"] for each in done)
    found = {"rate": changes / lasted}
    for name, was, now in zip(("eu", "us"), before, after, strict=True):
        found[f"cpu_{name}"] = (now["cpu"] - was["cpu"]) / changes * 1e6
    return found
