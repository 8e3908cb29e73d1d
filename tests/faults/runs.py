"""One run: regions, load, faults, healing, and the verdict."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mesh.identity import authority, folder, keys
from mesh.identity.spiffe import WorkloadId
from tests.faults.checks import OF_STATES
from tests.faults.clients import BEGINNER, Client
from tests.faults.effects import Effects
from tests.faults.history import ACKNOWLEDGED, PENDING, REFUSED, UNKNOWN, History
from tests.faults.namespaces import Namespaces, NotPossible
from tests.faults.nemesis import Nemesis
from tests.faults.observations import OF_ANSWERS
from tests.faults.processes import Process, RegionFailed
from tests.faults.settings import TRUST_DOMAIN, WORKLOAD, Settings
from tests.faults.wan import Network

CLIENTS_OF_A_REGION = 3
HEAL_SECONDS = 60.0
"""Within this time after the last fault all regions must hold the same."""

_SETTLED_LOOKS = 3


@dataclass
class Plan:
    """What to run; without `kinds` it is a control run. `folder` is for history and logs."""

    name: str
    seed: int
    seconds: float
    kinds: tuple[str, ...]
    regions: int
    folder: Path
    bug: str = ""
    network: type[Network | Namespaces] = Network


@dataclass
class Verdict:
    """What was done, and what is wrong, by check."""

    plan: Plan
    history: History
    violations: dict[str, list[str]]
    healed_seconds: float

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.violations.values())

    @property
    def counts(self) -> dict[str, int]:
        """How much of what was done."""
        attempts = self.history.attempts
        outcomes = Counter(attempt.outcome for attempt in attempts if attempt.write)
        read = sum(not each.write and each.outcome == ACKNOWLEDGED for each in attempts)
        return {
            "acknowledged": outcomes[ACKNOWLEDGED],
            "pending": outcomes[PENDING],
            "refused": outcomes[REFUSED],
            "unknown": outcomes[UNKNOWN],
            "reads": read,
            "faults": len(self.history.faults),
        }


async def run(plan: Plan) -> Verdict:
    """Runs it and judges it. Raises `RegionFailed` if a region cannot be started at first."""
    shutil.rmtree(plan.folder, ignore_errors=True)
    plan.folder.mkdir(parents=True)
    async with _regions(plan) as (processes, network):
        history = History(list(processes))
        broken: list[str] = []
        healed = float("inf")
        try:
            await _trouble(plan, processes, network, history)
            network.heal()
            healed = await _settle(processes)
        except* RegionFailed as failed:
            broken += map(str, _leaves(failed))
        except* NotPossible as impossible:
            raise next(_leaves(impossible)) from None
        for name, process in processes.items():
            try:
                history.final[name] = await process.ask("state")
            except OSError:
                broken.append(f"{name} ended by itself, or hangs: see {process.log}")
    history.save(plan.folder)
    return Verdict(plan, history, {"processes": broken, **judge(history)}, healed)


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    """What task groups within task groups raised."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def judge(history: History) -> dict[str, list[str]]:
    """What is wrong with a history, by check."""
    effects = Effects(history)
    return {name: list(check(effects)) for name, check in (OF_STATES | OF_ANSWERS).items()}


@asynccontextmanager
async def _regions(plan: Plan) -> AsyncIterator[tuple[dict[str, Process], Network | Namespaces]]:
    names = [f"r{number}" for number in range(1, plan.regions + 1)]
    network = plan.network(names)
    # Paths of sockets are short; what is left to be read goes to the plan's folder.
    scratch = Path(tempfile.mkdtemp(prefix="isf-"))
    processes: dict[str, Process] = {}
    try:
        await network.start()
        _enrol(names, scratch / "identities")
        for name in names:
            settings = Settings(
                region=name,
                folder=str(scratch / name),
                identity=str(scratch / "identities" / name),
                socket=str(scratch / f"{name}.sock"),
                listens=network.listens(name),
                dials=network.dials(name),
                bug=plan.bug,
            )
            processes[name] = Process(settings, plan.folder / f"{name}.log", network.command(name))
        await asyncio.gather(*(process.start() for process in processes.values()))
        yield processes, network
    finally:
        await asyncio.gather(*(process.stop() for process in processes.values()))
        await network.close()
        shutil.rmtree(scratch)


def _enrol(regions: list[str], identities: Path) -> None:
    """Gives each region's workload a certificate, so that what it writes can be relayed.

    They outlast a run, and so are never renewed.
    """
    now = datetime.now(UTC)
    root = authority.make_root(TRUST_DOMAIN, now)
    for region in regions:
        key = keys.make_key()
        issuer = authority.make_region_issuer(root, TRUST_DOMAIN, region, now)
        who = WorkloadId(TRUST_DOMAIN, region, WORKLOAD)
        leaf = authority.sign(issuer, keys.signing_request(key), who, now)
        folder.write(identities / region, leaf.chain_pem, keys.key_pem(key), leaf.trust_pem)


async def _trouble(
    plan: Plan, processes: dict[str, Process], network: Network | Namespaces, history: History
) -> None:
    """Load, and faults as the plan wants them, for its time."""
    first = next(iter(processes))
    await Client(BEGINNER, first, processes, history, BEGINNER).begin()
    await _settle(processes)
    ended = asyncio.Event()
    clients = [
        Client(f"{region}c{n}", region, processes, history, f"{plan.seed}/{region}/{n}")
        for region in processes
        for n in range(CLIENTS_OF_A_REGION)
    ]
    nemesis = Nemesis(processes, network, history, f"{plan.seed}/{plan.name}")
    asyncio.get_running_loop().call_later(plan.seconds, ended.set)
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(ended))
        group.create_task(nemesis.run(plan.kinds, ended))


async def _settle(processes: dict[str, Process]) -> float:
    """Seconds until all regions stood at the same place, and stayed there."""
    started = time.monotonic()
    same, before = 0, ""
    while same < _SETTLED_LOOKS and time.monotonic() < started + HEAL_SECONDS:
        await asyncio.sleep(0.1)
        try:
            found = {
                repr(sorted((await process.ask("vector"))["vector"]))
                for process in processes.values()
            }
        except OSError:
            raise ExceptionGroup("", [RegionFailed("a region ended by itself, or hangs")]) from None
        same = same + 1 if len(found) == 1 and (not before or found == {before}) else 0
        before = next(iter(found))
    return time.monotonic() - started
