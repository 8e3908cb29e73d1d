"""For programs: JSON, GitHub's annotations, GitLab's code quality, SARIF 2.1.0 and JUnit."""

from __future__ import annotations

import hashlib
import json as encoding
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from mesh.compat.render.document import Document, Note, Severity

_GITHUB = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}
_GITLAB = {Severity.ERROR: "critical", Severity.WARNING: "minor", Severity.NOTE: "info"}
_PAGES = "docs/compat/"


def json(document: Document) -> str:
    """All that is known, in the order of the text."""
    return _dump(
        {
            "passes": document.passes,
            "verdict": document.verdict,
            "against": list(document.against),
            "findings": [_plain(note) for note in document.notes],
        }
    )


def github(document: Document) -> str:
    """Workflow commands, which GitHub shows beside the lines."""
    lines = [
        f"::{_GITHUB[note.severity]} file={_property(note.file)},line={note.line},"
        f"title={_property(note.rule)}::{_data(_message(note))}"
        for note in document.notes
    ]
    return "\n".join([*lines, document.headline]) + "\n"


def gitlab(document: Document) -> str:
    """A code quality report."""
    return _dump(
        [
            {
                "description": _message(note),
                "check_name": note.rule,
                "fingerprint": _fingerprint(note),
                "severity": _GITLAB[note.severity],
                "location": {"path": note.file, "lines": {"begin": note.line}},
            }
            for note in document.notes
        ]
    )


def sarif(document: Document) -> str:
    """SARIF 2.1.0."""
    rules = sorted({note.rule for note in document.notes})
    return _dump(
        {
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [
                {
                    "tool": {
                        "driver": {
                            "name": "isthmus contracts",
                            "rules": [
                                {"id": rule, "help": {"text": f"{_PAGES}{rule}.md"}}
                                for rule in rules
                            ],
                        }
                    },
                    "results": [_result(note) for note in document.notes],
                }
            ],
        }
    )


def junit(document: Document) -> str:
    """One test case for each finding; what stops the change is a failure."""
    failures = [note for note in document.notes if note.severity is Severity.ERROR]
    cases: Sequence[Note | None] = document.notes or (None,)
    suite = ElementTree.Element(
        "testsuite",
        name="isthmus contracts",
        tests=str(len(cases)),
        failures=str(len(failures)),
        errors="0",
    )
    for note in cases:
        if note is None:
            ElementTree.SubElement(suite, "testcase", classname="contracts", name="gate")
            continue
        name = f"{note.subject or note.file}:{note.line}"
        case = ElementTree.SubElement(suite, "testcase", classname=note.rule, name=_clean(name))
        if note.severity is Severity.ERROR:
            failure = ElementTree.SubElement(case, "failure", message=_clean(note.message))
            failure.text = _clean(f"{note.file}:{note.line}: {_message(note)}")
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _result(note: Note) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": note.rule,
        "level": note.severity.value,
        "message": {"text": _message(note)},
        "partialFingerprints": {"isthmus/v1": _fingerprint(note)},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": note.file},
                    "region": {"startLine": max(note.line, 1)},
                }
            }
        ],
    }
    if note.waived:
        result["suppressions"] = [{"kind": "external", "justification": note.waived}]
    return result


def _plain(note: Note) -> dict[str, Any]:
    return {
        "rule": note.rule,
        "severity": note.severity.value,
        "verdict": note.verdict,
        "approval": note.approval,
        "subject": note.subject,
        "message": note.message,
        "remedy": note.remedy,
        "file": note.file,
        "line": note.line,
        "against": list(note.against),
        "owners": list(note.owners),
        "waived": note.waived,
    }


def _message(note: Note) -> str:
    subject = f"{note.subject}: " if note.subject else ""
    verdict = f" ({note.verdict}{', needs approval' if note.approval else ''})"
    return f"{subject}{note.message}{verdict if note.verdict else ''}. {note.remedy}"


def _fingerprint(note: Note) -> str:
    """The same for the same finding, wherever its line moves."""
    told = "\0".join((note.rule, note.subject, note.file, note.message))
    return hashlib.sha256(told.encode()).hexdigest()


def _dump(value: Any) -> str:
    # DEL is the one control character that JSON leaves as it is.
    return encoding.dumps(value, indent=2).replace("\x7f", "\\u007f") + "\n"


def _data(value: str) -> str:
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")


def _clean(value: str) -> str:
    """Without what XML cannot hold, or a terminal should not."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in value)
