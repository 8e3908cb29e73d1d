"""The faults, drawn by a seed, with a log of what was done to whom and when.

One strand troubles processes, another the links between them: each does one fault at a time, heals
it, and lets the regions be for a moment.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from tests.faults.history import Fault, History
from tests.faults.namespaces import Namespaces
from tests.faults.processes import Process
from tests.faults.wan import HEALTHY, Network
from tests.faults.wan import Fault as LinkFault

OF_PROCESSES = ("kill", "pause", "disk", "clock")
OF_LINKS = ("stall", "reset", "slow", "cut")
KINDS = OF_PROCESSES + OF_LINKS

_LASTS = (0.3, 2.5)
_BETWEEN = (0.2, 1.0)
_SKEW_MS = 60_000
_SLOW = LinkFault(delay=0.15, jitter=0.2)


class Nemesis:
    """Does faults of some kinds until it is told to end, and heals all at its end."""

    def __init__(
        self,
        processes: dict[str, Process],
        network: Network | Namespaces,
        history: History,
        seed: str,
    ) -> None:
        self._processes = processes
        self._network = network
        self._history = history
        self._random = random.Random(seed)  # noqa: S311 # a seed makes the same choices again
        self._ended = asyncio.Event()

    async def run(self, kinds: tuple[str, ...], ended: asyncio.Event) -> None:
        """Troubles the regions until `ended`. Raises `RegionFailed` if one does not start again."""
        self._ended = ended
        strands = (
            [kind for kind in kinds if kind in OF_PROCESSES],
            [kind for kind in kinds if kind in OF_LINKS],
        )
        async with asyncio.TaskGroup() as group:
            for strand in strands:
                if strand:
                    group.create_task(self._trouble(strand))

    async def _trouble(self, kinds: list[str]) -> None:
        # Each kind has its turn before any has its second.
        turns: list[str] = []
        while not self._ended.is_set():
            await self._last(*_BETWEEN)
            if self._ended.is_set():
                return
            turns = turns or self._random.sample(kinds, len(kinds))
            await getattr(self, f"_{turns.pop()}")()

    async def _last(self, least: float, most: float) -> None:
        """Waits for a while, or until the run ends."""
        try:
            async with asyncio.timeout(self._random.uniform(least, most)):
                await self._ended.wait()
        except TimeoutError:
            pass

    def _begins(self, kind: str, targets: list[str], detail: str = "", **more: Any) -> Fault:
        fault = Fault(kind, targets, time.monotonic(), detail=detail, **more)
        self._history.faults.append(fault)
        return fault

    def _some(self) -> list[str]:
        """One region, all but one, or all."""
        names = list(self._processes)
        many = self._random.choice((1, 1, len(names) - 1, len(names)))
        return sorted(self._random.sample(names, many))

    # Processes.

    async def _kill(self) -> None:
        fault = self._begins("kill", self._some())
        chosen = [self._processes[name] for name in fault.targets]
        await asyncio.gather(*(process.kill() for process in chosen))
        await self._last(0.0, 1.0)
        await asyncio.gather(*(process.start() for process in chosen))
        fault.end = time.monotonic()

    async def _pause(self) -> None:
        fault = self._begins("pause", self._some())
        chosen = [self._processes[name] for name in fault.targets]
        for process in chosen:
            process.pause()
        await self._last(*_LASTS)
        for process in chosen:
            process.resume()
        fault.end = time.monotonic()

    async def _clock(self) -> None:
        """Clocks jump, on or back, and stay wrong until the next jump."""
        for name in self._some():
            skew = self._random.choice((0, self._random.randint(-_SKEW_MS, _SKEW_MS)))
            fault = self._begins("clock", [name], f"{skew:+d} ms")
            await self._processes[name].ask("skew", milliseconds=skew)
            fault.end = time.monotonic()

    async def _disk(self) -> None:
        """A disk is backed up, lost, or put back to its backup.

        No second disk goes before all that the others hold is on the first again: what two regions
        were told to hold must outlive one disk, and not both.
        """
        name = self._random.choice(list(self._processes))
        process = self._processes[name]
        how = self._random.choice(("lost", "restored"))
        if how == "restored" and not process.backed_up:
            how = "backed up"
        fault = self._begins("disk", [name], how)
        await process.kill()
        if how == "backed up":
            process.back_up()
        else:
            fault.vectors = await self._vectors(name)
            process.restore() if how == "restored" else process.lose()
        await process.start()
        fault.end = time.monotonic()
        if how != "backed up":
            await self._caught_up(name)

    async def _vectors(self, but: str) -> dict[str, list[list[Any]]]:
        others = (name for name in self._processes if name != but)
        return {name: (await self._processes[name].ask("vector"))["vector"] for name in others}

    async def _caught_up(self, name: str) -> None:
        """Waits until a region has all that the others have now."""
        wanted: dict[tuple[str, int], int] = {}
        for vector in (await self._vectors(name)).values():
            for region, incarnation, sequence in vector:
                origin = (region, incarnation)
                wanted[origin] = max(sequence, wanted.get(origin, 0))
        while not self._ended.is_set():
            here = {(r, i): n for r, i, n in (await self._processes[name].ask("vector"))["vector"]}
            if all(here.get(origin, 0) >= n for origin, n in wanted.items()):
                return
            await asyncio.sleep(0.1)

    # Links.

    def _links(self) -> list[tuple[str, str]]:
        """One link in one direction, one in both, or all around a region in either or both."""
        names = list(self._processes)
        one, other = self._random.sample(names, 2)
        out = [(one, name) for name in names if name != one]
        back = [(target, source) for source, target in out]
        return self._random.choice(
            ([(one, other)], [(one, other), (other, one)], out, back, out + back)
        )

    async def _fault(self, kind: str, fault: LinkFault, lasts: tuple[float, float]) -> None:
        links = self._links()
        entry = self._begins(kind, [f"{source}>{target}" for source, target in links])
        for link in links:
            self._network.set(*link, fault)
        await self._last(*lasts)
        for link in links:
            self._network.set(*link, HEALTHY)
        entry.end = time.monotonic()

    async def _stall(self) -> None:
        await self._fault("stall", LinkFault(stall=True), _LASTS)

    async def _slow(self) -> None:
        await self._fault("slow", _SLOW, _LASTS)

    async def _cut(self) -> None:
        await self._fault("cut", LinkFault(cut=True), _LASTS)

    async def _reset(self) -> None:
        """Connections are reset, and new ones work at once."""
        await self._fault("reset", LinkFault(cut=True), (0.0, 0.05))
