"""Judges what shall be deployed, in a process of its own: `python -m mesh.control.judge FOLDER`.

The contract is read and linted, compiled for all regions, compared with what runs, and each
configuration that changes is put before the real Envoy. A process of its own, since that takes
seconds and Envoy's classes 50 MB, and the control plane has streams to serve meanwhile.

The folder has `old.binpb`, `old.yaml`, `new.binpb` and `new.yaml`; the judgement goes into
`judgement.json`, and what was compiled into `compiled-<region>.binpb`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.control.source import Source
from mesh.xds.fleet import Instance

_WITHIN = 120.0


class Refused(Exception):
    """What shall be deployed cannot be; `blame` names lines that may be at fault."""

    def __init__(self, reason: str, blame: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.blame = blame


@dataclass(frozen=True)
class Difference:
    """One change in the contract's terms, and the sidecars that it changes by itself."""

    subject: str
    text: str
    sidecars: frozenset[Instance]


@dataclass(frozen=True)
class Judged:
    """What all regions shall serve, and how it differs from what they do."""

    compiled: Mapping[str, bytes]
    changed: tuple[Instance, ...]
    versions: tuple[Instance, ...]
    """Other versions of workloads."""
    differences: tuple[Difference, ...]

    def blame(self, instance: Instance | None, method: str) -> tuple[str, ...]:
        """The changes that may have made this sidecar, or this method's calls, fail."""
        by_method = [d for d in self.differences if method and d.subject in (method, method[1:])]
        by_sidecar = [d for d in self.differences if instance in d.sidecars]
        found = by_method or by_sidecar or self.differences
        return tuple(dict.fromkeys(each.text for each in found))


async def judge(old: Source, new: Source) -> Judged:
    """Judges `new`, when `old` is what runs. Raises `Refused`."""
    folder = Path(tempfile.mkdtemp(prefix="isthmus-"))
    try:
        for name, source in (("old", old), ("new", new)):
            (folder / f"{name}.binpb").write_bytes(source.image)
            (folder / f"{name}.yaml").write_text(source.topology_text, encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *(shutil.which("setpriv") or "setpriv", "--pdeathsig", "KILL", "--"),
            *(sys.executable, "-m", "mesh.control.judge", str(folder)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_WITHIN):
                _, errors = await process.communicate()
        except TimeoutError:
            raise Refused(f"it was not judged within {_WITHIN:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            last = (errors.decode(errors="replace").strip().splitlines() or ["no reason"])[-1]
            raise Refused(f"it cannot be judged: {last}")
        return _read(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(folder: Path) -> Judged:
    found: dict[str, Any] = json.loads((folder / "judgement.json").read_text())
    if "refused" in found:
        raise Refused(found["refused"], tuple(found["blame"]))
    return Judged(
        {region: (folder / f"compiled-{region}.binpb").read_bytes() for region in found["regions"]},
        tuple(Instance(*each) for each in found["changed"]),
        tuple(Instance(*each) for each in found["versions"]),
        tuple(
            Difference(each["subject"], each["text"], frozenset(Instance(*i) for i in each["at"]))
            for each in found["differences"]
        ),
    )


def _judge(folder: Path) -> dict[str, Any]:
    from mesh.contracts import ContractError
    from mesh.control.compiled import pack
    from mesh.envoy import EnvoyConfigError
    from mesh.topology import TopologyError
    from mesh.xds.compiler import Compiler
    from mesh.xds.plan import Deployable, plan

    old, new = (
        Source((folder / f"{name}.binpb").read_bytes(), (folder / f"{name}.yaml").read_text())
        for name in ("old", "new")
    )
    try:
        topology = new.topology()
        wanted = Deployable(new.contract(), topology)
    except ContractError as error:
        lines = [str(finding) for finding in error.findings]
        count = f"{len(lines)} faults" if len(lines) > 1 else "a fault"
        return {"refused": f"the contract has {count}", "blame": lines}
    except TopologyError as error:
        return {"refused": str(error), "blame": []}
    runs = Deployable(old.contract(), old.topology())
    for what in ("region_names", "workloads"):
        if getattr(topology, what) != getattr(runs.topology, what):
            names = ", ".join(getattr(runs.topology, what))
            return {
                "refused": f"this mesh has the {what.partition('_')[0].rstrip('s')}s {names}: "
                "to change those, stop it and start it with the other topology",
                "blame": ["mesh.yaml"],
            }
    try:
        revision = Compiler().revision(new.name, wanted.contract, topology)
        made = plan(runs, wanted)
    except EnvoyConfigError as error:
        return {"refused": f"it does not compile: {error}", "blame": []}
    differences = [
        {
            "subject": each.change.subject,
            "text": f"{each.change.subject}: {each.change.what} ({each.change.location})",
            "at": [[i.region, i.workload] for i in each.sidecars],
        }
        for each in made.changes
    ]
    if made.by_topology:
        at = [[i.region, i.workload] for i in made.by_topology]
        differences.append({"subject": "", "text": "the topology (mesh.yaml)", "at": at})
    for instance in made.sidecars:
        refused = _refused_by_envoy(wanted, instance)
        if refused:
            at_fault = [d["text"] for d in differences if [*_pair(instance)] in d["at"]]
            return {"refused": f"Envoy refuses {instance}: {refused}", "blame": at_fault}
    for region in topology.region_names:
        (folder / f"compiled-{region}.binpb").write_bytes(pack(revision, region))
    return {
        "regions": list(topology.region_names),
        "changed": [_pair(each) for each in made.sidecars],
        "versions": [[each.region, each.instance] for each in topology.traffic.versions],
        "differences": differences,
    }


def _refused_by_envoy(wanted: Any, instance: Instance) -> str:
    from mesh.envoy import EnvoyConfigError
    from mesh.envoy.render import accepted
    from mesh.place import Place, workload_and_version

    with tempfile.TemporaryDirectory(prefix="isthmus-") as scratch:
        folder = Path(scratch) / "it"
        workload, version = workload_and_version(instance.workload)
        place = Place(
            instance.region,
            workload,
            wanted.topology.path,
            folder,
            folder,
            wanted.topology.otlp,
            version,
        )
        try:
            accepted(wanted.contract, wanted.topology, place, folder)
        except EnvoyConfigError as error:
            return str(error)
    return ""


def _pair(instance: Instance) -> list[str]:
    return [instance.region, instance.workload]


def main() -> None:
    """Judges what is in the folder that the command line names."""
    folder = Path(sys.argv[1])
    (folder / "judgement.json").write_text(json.dumps(_judge(folder)))


if __name__ == "__main__":
    main()
