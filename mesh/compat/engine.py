"""All rules over a new version and those that it runs beside, or whose data it reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from mesh.compat.pair import Pair
from mesh.compat.rules import RULES, Found
from mesh.compat.verdicts import Verdict
from mesh.contracts.model import Location


@dataclass(frozen=True)
class Change:
    """One thing that changed, its verdict, and the versions against which it did."""

    rule: str
    subject: str
    what: str
    verdict: Verdict
    remedy: str
    location: Location
    approval: bool
    against: tuple[str, ...]


def compare(pair: Pair) -> Iterator[Change]:
    """What the rules say of two versions."""
    for rule in RULES:
        if not (rule.calls and pair.stored):
            for found in rule.check(pair):
                yield change(rule.id, found, pair.old.name)


def change(rule: str, found: Found, against: str) -> Change:
    """What a rule found, as one of a report."""
    return Change(
        rule,
        found.subject,
        found.what,
        found.verdict,
        found.remedy,
        found.location,
        found.approval,
        (against,),
    )


def together(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Each thing once, with all the versions against which it changed; the worst first."""
    found: dict[Change, list[str]] = {}
    for each in changes:
        found.setdefault(replace(each, against=()), []).extend(each.against)
    joined = (
        replace(each, against=tuple(dict.fromkeys(versions))) for each, versions in found.items()
    )
    return tuple(
        sorted(
            joined,
            key=lambda c: (-c.verdict.rank, c.location.file, c.location.line, c.rule, c.subject),
        )
    )
