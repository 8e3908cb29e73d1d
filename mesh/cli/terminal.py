"""Text that others wrote, made safe to show in a terminal."""

from __future__ import annotations

import re

# C0 and C1 controls, with which text moves the cursor, retitles windows or pastes; and the marks
# that reorder what is read (Unicode Standard Annex 9).
_UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str, *, lines: bool = True) -> str:
    """The text with control characters escaped; line feeds stay if it may have `lines`."""
    safe = _UNSAFE.sub(_escaped, text)
    return safe if lines else safe.replace("\n", "\\n")


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
