"""A report in the formats that people and CI systems read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mesh.compat.render import machines, words
from mesh.compat.render.document import Document, of_findings, of_report

FORMATS: Mapping[str, Callable[[Document], str]] = {
    "text": words.text,
    "markdown": words.markdown,
    "json": machines.json,
    "github": machines.github,
    "gitlab": machines.gitlab,
    "sarif": machines.sarif,
    "junit": machines.junit,
}

__all__ = ["FORMATS", "Document", "of_findings", "of_report"]
