"""What the services' tests share: real groups, callers, and a clock to wind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mesh.contracts import load
from mesh.replication import Group, WriteContext
from mesh.runtime.context import Call, current
from mesh.runtime.principal import Principal

ACTOR = "spiffe://isthmus.test/region/eu/workload/test"


@asynccontextmanager
async def group(name: str, folder: Path, region: str = "eu") -> AsyncIterator[Group]:
    """A real group, alone in its mesh."""
    opened = await Group.open(load(), name, region=region, peers=[], folder=folder / region / name)
    try:
        yield opened
    finally:
        await opened.close()


def own_writes() -> WriteContext:
    """For what a workload writes by itself."""
    return WriteContext(actor=ACTOR)


def calls_as(
    kind: str, name: str, method: str = "/test/Test", enrolled_ms: int | None = None
) -> None:
    """Makes this task's calls come from a device or an operator."""
    uri = f"spiffe://isthmus.test/{kind}/{name}"
    principal = Principal(
        "device" if kind == "device" else "operator", name, uri, uri, enrolled_ms=enrolled_ms
    )
    current.set(Call(method, principal))


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Waits for a condition; fails when time is up."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        if loop.time() > end:
            pytest.fail(f"not within {seconds} s")
        await asyncio.sleep(0.01)
