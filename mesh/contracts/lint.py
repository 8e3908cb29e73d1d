"""All rules over one schema."""

from __future__ import annotations

from collections.abc import Collection

from mesh.contracts.findings import Finding
from mesh.contracts.rules import RULES
from mesh.contracts.rules.rule import Subject
from mesh.contracts.schema import Schema


def lint(
    schema: Schema, *, regions: int | None = None, workloads: Collection[str] = ()
) -> list[Finding]:
    """What is wrong with a schema, sorted; empty if it may be used."""
    subject = Subject(schema, regions, frozenset(workloads))
    return sorted(
        {
            Finding(
                problem.location.file,
                problem.location.line,
                rule.id,
                problem.message,
                problem.remedy,
            )
            for rule in RULES
            for problem in rule.check(subject)
        }
    )
