"""From one set of settings to the next, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from mesh.traffic.model import Drill, Mirror, Traffic, Version


def changes(old: Traffic, new: Traffic) -> Iterator[str]:
    """What a deploy of the new settings would change, with the line of what is there then."""
    for workload in sorted({name for name, _ in (*old.bounds, *new.bounds)}):
        was, now = asdict(old.bounds_of(workload)), asdict(new.bounds_of(workload))
        for name, value in now.items():
            if value != was[name]:
                yield f"bounds of {workload}: {name} is {value:g}, was {was[name]:g}"
    yield from _listed(old.versions, new.versions)
    yield from _listed(old.mirrors, new.mirrors)
    yield from _listed(old.drills, new.drills)


def _listed(
    old: tuple[Version, ...] | tuple[Mirror, ...] | tuple[Drill, ...],
    new: tuple[Version, ...] | tuple[Mirror, ...] | tuple[Drill, ...],
) -> Iterator[str]:
    for each in old:
        if each not in new:
            yield f"no longer: {each}"
    for each in new:
        if each not in old:
            yield f"{each} (mesh.yaml:{each.line})"
