"""What is printed, whatever the format: one note for each finding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from mesh.compat.report import Entry, Report
from mesh.compat.waivers import Waiver
from mesh.contracts.findings import Finding


class Severity(Enum):
    """How much a note weighs: an error stops the change."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Note:
    """One finding. `verdict` is empty for what is wrong by itself."""

    severity: Severity
    rule: str
    subject: str
    message: str
    remedy: str
    file: str
    line: int
    verdict: str = ""
    approval: bool = False
    against: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    waived: str = ""


@dataclass(frozen=True)
class Document:
    """All that is printed; `headline` says the answer in one sentence."""

    headline: str
    passes: bool
    verdict: str
    against: tuple[str, ...]
    notes: tuple[Note, ...]

    def stops(self) -> Document:
        """The same with what stops the change alone."""
        errors = tuple(note for note in self.notes if note.severity is Severity.ERROR)
        return replace(self, notes=errors)


def of_report(report: Report) -> Document:
    """A report of changes."""
    notes = [_entry(report, entry) for entry in report.entries]
    notes += [_waiver(report, each, expired=True) for each in report.expired]
    notes += [_waiver(report, each, expired=False) for each in report.unused]
    stops = sum(note.severity is Severity.ERROR for note in notes)
    changes = len(report.entries)
    headline = (
        f"{report.verdict.value}: {changes} changes against {', '.join(report.against)}; "
        + (f"{stops} of what follows stop it" if stops else "nothing stops them")
        if changes or stops
        else f"safe: no changes against {', '.join(report.against)}"
    )
    return Document(headline, report.passes, report.verdict.value, report.against, tuple(notes))


def of_findings(findings: Iterable[Finding], prefix: str) -> Document:
    """What lint found."""
    notes = tuple(
        Note(
            Severity.ERROR,
            each.rule,
            "",
            each.message,
            each.remedy,
            prefix + each.file,
            each.line,
        )
        for each in findings
    )
    headline = f"refused: {len(notes)} findings" if notes else "the contract keeps every rule"
    return Document(headline, not notes, "refused" if notes else "safe", (), notes)


def _entry(report: Report, entry: Entry) -> Note:
    change = entry.change
    severity = Severity.NOTE if change.verdict.kind == "safe" or entry.waiver else Severity.WARNING
    return Note(
        Severity.ERROR if entry.stops else severity,
        change.rule,
        change.subject,
        change.what,
        change.remedy,
        report.place(entry),
        change.location.line,
        change.verdict.value,
        change.approval,
        change.against,
        entry.owners,
        _said(entry.waiver) if entry.waiver else "",
    )


def _waiver(report: Report, waiver: Waiver, *, expired: bool) -> Note:
    return Note(
        Severity.ERROR if expired else Severity.WARNING,
        "WAIVER_EXPIRED" if expired else "WAIVER_UNUSED",
        waiver.place,
        f"the waiver of {waiver.rule} ended on {waiver.expires}"
        if expired
        else f"nothing needs the waiver of {waiver.rule}",
        f"mend what it waived, or have {waiver.owner} renew it" if expired else "remove it",
        report.waivers,
        waiver.line,
        owners=(waiver.owner,),
    )


def _said(waiver: Waiver) -> str:
    return f"{waiver.owner}, until {waiver.expires}: {waiver.reason}"
