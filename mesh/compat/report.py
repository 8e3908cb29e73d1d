"""What the gate says: each change, what waives it, and whether it may pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from mesh.compat.engine import Change
from mesh.compat.pair import Side
from mesh.compat.verdicts import KINDS, Verdict, worst
from mesh.compat.waivers import Waiver


@dataclass(frozen=True)
class Entry:
    """A change, the waiver that lets it pass, and whom to ask about it."""

    change: Change
    waiver: Waiver | None
    owners: tuple[str, ...]
    stops: bool


@dataclass(frozen=True)
class Report:
    """All entries, the worst first; waivers that hold no more, and those that nothing needs.

    `prefix` leads from where the gate was run to the files that `location` names.
    """

    against: tuple[str, ...]
    entries: tuple[Entry, ...]
    expired: tuple[Waiver, ...]
    unused: tuple[Waiver, ...]
    prefix: str = ""
    waivers: str = ""

    @property
    def verdict(self) -> Verdict:
        """Of all that is not waived."""
        return worst(entry.change.verdict for entry in self.entries if entry.waiver is None)

    @property
    def passes(self) -> bool:
        """Whether nothing stops it."""
        return not self.expired and not any(entry.stops for entry in self.entries)

    def place(self, entry: Entry) -> str:
        """The file of a change, from where the gate was run."""
        return self.prefix + entry.change.location.file


def report(
    new: Side,
    old: Sequence[Side],
    changes: Iterable[Change],
    waivers: Sequence[Waiver],
    *,
    today: date,
    stop_at: str = "breaking",
    prefix: str = "",
    waivers_file: str = "",
) -> Report:
    """The report. What is as bad as `stop_at` (one of `KINDS`), or needs approval, stops."""
    by_place = {(each.rule, each.place): each for each in waivers}
    entries, used = [], set()
    for change in changes:
        waiver = by_place.get((change.rule, change.subject))
        if waiver is not None:
            used.add(waiver)
        holds = waiver if waiver is not None and not waiver.expired(today) else None
        bad = change.verdict.rank >= KINDS.index(stop_at) or change.approval
        entries.append(Entry(change, holds, _owners((new, *old), change), bad and holds is None))
    return Report(
        tuple(side.name for side in old),
        tuple(entries),
        tuple(each for each in waivers if each.expired(today)),
        tuple(each for each in waivers if each not in used and not each.expired(today)),
        prefix,
        waivers_file,
    )


def _owners(sides: Iterable[Side], change: Change) -> tuple[str, ...]:
    """Who answers for the services of the subject, or else of its file or its group."""
    found: set[str] = set()
    for side in sides:
        schema = side.schema
        name = change.subject.partition("/")[0]
        message = schema.messages.get(name) or schema.messages.get(name.rpartition(".")[0])
        group = message.entity.group if message is not None and message.entity else ""
        for service in schema.services.values():
            named = service.name == name or (group and service.contract.group == group)
            if named or service.source.file == change.location.file:
                found.add(service.contract.owner)
    return tuple(sorted(found - {""}))
