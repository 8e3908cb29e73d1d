"""Plays the story from its first step to its last."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from mesh.cli.story import steps
from mesh.cli.story.stage import NotHeld, new_folder, stage
from mesh.local.errors import LocalError
from mesh.runtime.client import NoEdge
from mesh.topology import Topology

Step = Callable[[steps.Story], Awaitable[str]]

STORY: tuple[tuple[str, Step], ...] = (
    ("Devices enrol and connect", steps.devices_enrol),
    ("A channel goes on air", steps.channel_goes_on_air),
    ("Other regions see it", steps.others_see_it),
    ("Its encoder is killed", steps.standby_takes_over),
    ("A region is cut off", steps.both_sides_write),
    ("The cut heals", steps.heal_converges),
    ("A whole region is killed", steps.another_adopts),
    ("The region returns", steps.region_returns),
    ("A stranger is denied", steps.stranger_is_denied),
)
FIRST = "Regions start"
LAST = "Everything stops"


@dataclass(frozen=True)
class Played:
    """One step: whether it held, how long it took in seconds, and what was seen."""

    name: str
    held: bool
    seconds: float
    detail: str


@dataclass(frozen=True)
class Began:
    """A step begins."""

    name: str


Tell = Callable[[Began | Played], None]


async def play(topology: Topology, tell: Tell, *, keep: bool) -> bool:
    """Runs the story in a mesh of its own; returns whether every step held.

    The first step that does not hold ends it. Nothing is left running, unless `keep`; the folder
    stays after a failure, for its logs.
    """
    folder = new_folder()
    played: list[Played] = []

    def done(name: str, began: float, held: bool, detail: str) -> None:
        played.append(Played(name, held, time.monotonic() - began, detail))
        tell(played[-1])

    began = time.monotonic()
    try:
        await _play(topology, tell, done, folder, tied=not keep)
    except LocalError as error:
        done(FIRST if not played else LAST, began, False, str(error))
    finally:
        held = all(each.held for each in played)
        if held and not keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            tell(Began(f"its folder stays: {folder}"))
    return held


async def _play(
    topology: Topology,
    tell: Tell,
    done: Callable[[str, float, bool, str], None],
    folder: Path,
    *,
    tied: bool,
) -> None:
    tell(Began(FIRST))
    began = time.monotonic()
    async with stage(topology, folder, tied=tied) as opened:
        done(FIRST, began, True, f"{len(opened.record.processes)} processes, all healthy")
        with tempfile.TemporaryDirectory(prefix="isthmus-") as scratch:
            story = steps.Story(opened, Path(scratch))
            for name, step in STORY:
                tell(Began(name))
                began = time.monotonic()
                try:
                    detail = await step(story)
                except (NotHeld, LocalError, NoEdge) as error:
                    return done(name, began, False, str(error))
                except grpc.aio.AioRpcError as error:
                    said = f"{error.code().name}: {error.details()}"
                    return done(name, began, False, said)
                done(name, began, True, detail)
    return None
