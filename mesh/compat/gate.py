"""The gate: reads the versions, runs all rules and buf, and heeds the waivers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from mesh.compat import sources, waivers, wire
from mesh.compat.engine import compare, together
from mesh.compat.pair import Pair
from mesh.compat.report import Report, report
from mesh.compat.rules import RULES
from mesh.compat.uses import Unknown, Uses
from mesh.contracts.findings import ContractError
from mesh.contracts.lint import lint


@dataclass(frozen=True)
class Question:
    """What to check: `source`, against what runs and what is only `stored`.

    `against` and `stored` are refs: folders, images or git refs.
    """

    source: Path
    against: Sequence[str]
    stored: Sequence[str] = ()
    waivers: Path | None = None
    stop_at: str = "breaking"


def check(question: Question, today: date, uses: Uses | None = None) -> Report:
    """The gate's answer.

    Raises `GateError` if a version or the waivers cannot be read, `ContractError` if the new
    contract is refused by itself.
    """
    listed = (
        waivers.read(question.waivers, wire.rules() | {rule.id for rule in RULES})
        if question.waivers is not None
        else ()
    )
    new = sources.read(question.source)
    findings = lint(new.schema)
    if findings:
        raise ContractError(findings)
    pairs = [
        Pair(sources.read_ref(ref, question.source), new, stored, uses or Unknown())
        for refs, stored in ((question.against, False), (question.stored, True))
        for ref in dict.fromkeys(refs)
    ]
    changes = [
        each for pair in pairs for found in (compare(pair), wire.wire(pair)) for each in found
    ]
    return report(
        new,
        [pair.old for pair in pairs],
        together(changes),
        listed,
        today=today,
        stop_at=question.stop_at,
        prefix=f"{question.source}/" if question.source.is_dir() else "",
        waivers_file=str(question.waivers or ""),
    )
