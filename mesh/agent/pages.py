"""Keeps the log of calls bounded: a busy sidecar writes gigabytes a day."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from mesh.agent.process import EnvoyProcess

PAGE_BYTES = 64 << 20
LOOK_SECONDS = 5.0


async def turn_pages(log: Path, running: Callable[[], EnvoyProcess | None]) -> None:
    """Puts a log that is full aside, in place of the one before, and has Envoy begin anew.

    Two pages are kept, so a page is how much of the past there is at the least. Runs until it is
    cancelled or Envoy ends. What Envoy writes before it hears of it goes to the old page.
    """
    while (process := running()) is not None and not process.exited:
        if log.exists() and log.stat().st_size > PAGE_BYTES:
            log.replace(log.with_name(f"{log.name}.1"))
            process.reopen_logs()
        await asyncio.sleep(LOOK_SECONDS)
