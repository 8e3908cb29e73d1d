"""For people: text for a terminal, and a page in Markdown for who approves."""

from __future__ import annotations

from collections.abc import Iterator

from mesh.compat.render.document import Document, Note, Severity

_ORDER = (
    ("callers first", "Roll out callers in every region before servers"),
    ("servers first", "Roll out servers in every region before callers"),
    ("gated", "Write it only once every region runs this version"),
    ("breaking", "No order makes these safe"),
)


def text(document: Document) -> str:
    """One paragraph for each note: file:line, what, and how to mend it."""
    return "\n".join([*(_paragraph(note) for note in document.notes), document.headline]) + "\n"


def markdown(document: Document) -> str:
    """One page: the verdict, whom to ask, the order, and every change."""
    mark = "passes" if document.passes else "is stopped"
    lines = [f"## Contract gate: {document.verdict}", "", f"This change {mark}.", ""]
    if document.against:
        lines += [f"Compared with {', '.join(map(_code, document.against))}.", ""]
    owners = sorted({owner for note in document.notes for owner in note.owners})
    if owners:
        lines += [f"**Owners to ask:** {', '.join(map(_cell, owners))}", ""]
    lines += _order(document)
    if document.notes:
        lines += ["| | Verdict | Where | What | To do |", "|---|---|---|---|---|"]
        lines += [_row(note) for note in document.notes]
    return "\n".join(lines).rstrip() + "\n"


def _paragraph(note: Note) -> str:
    subject = f"{note.subject}: " if note.subject else ""
    marks = [note.rule, *([note.verdict] if note.verdict else [])]
    marks += ["needs approval"] if note.approval else []
    lines = [f"{note.file}:{note.line}: {subject}{note.message} [{', '.join(marks)}]"]
    if note.waived:
        lines.append(f"    waived by {note.waived}")
    else:
        lines.append(f"    {note.remedy}")
    if note.against:
        lines.append(f"    against {', '.join(note.against)}")
    return "\n".join(lines)


def _order(document: Document) -> Iterator[str]:
    for verdict, said in _ORDER:
        subjects = sorted(
            {note.subject for note in document.notes if note.verdict == verdict and not note.waived}
        )
        if subjects:
            yield f"- {said}: {', '.join(map(_code, subjects))}"
    yield ""


def _row(note: Note) -> str:
    mark = "stops" if note.severity is Severity.ERROR else "waived" if note.waived else ""
    verdict = note.verdict + (", needs approval" if note.approval else "")
    where = f"`{note.file}:{note.line}`<br>{_code(note.subject)}"
    todo = f"waived by {note.waived}" if note.waived else note.remedy
    what = f"{note.message} ({note.rule})"
    return f"| {mark} | {verdict} | {where} | {_cell(what)} | {_cell(todo)} |"


def _code(value: str) -> str:
    return f"`{value.replace('`', '').replace('|', '')}`" if value else ""


def _cell(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|").replace("<", "&lt;")
