"""What others wrote reaches a terminal as text: no markup, no control characters."""

from __future__ import annotations

import pytest

from mesh.cli import output
from mesh.cli.exits import Exit
from mesh.cli.main import _fail
from mesh.cli.terminal import printable

HOSTILE = "[/bold] [in#0 @ 0x55] :skull: \x1b]0;owned\x07\x9b2J\u202etxt"
SHOWN = r"[/bold] [in#0 @ 0x55] :skull: \x1b]0;owned\x07\x9b2J\u202etxt"


def test_a_table_shows_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("TITLE",), [(HOSTILE,), ("two\nlines",)], "none")
    _, first, second = capsys.readouterr().out.splitlines()
    assert (first, second) == (SHOWN, r"two\nlines")


def test_fields_show_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_fields([("error", HOSTILE), ("encodes", "a\nb")])
    first, *rest = (line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert first[1] == SHOWN
    assert [line[-1] for line in rest] == ["a", "b"]


def test_no_line_ends_in_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("CHANNEL", "TITLE"), [("a", "A title"), ("b", "-")], "none")
    output.print_fields([("a", "long"), ("longer", "b")])
    assert capsys.readouterr().out == (
        "CHANNEL  TITLE\na        A title\nb        -\na       long\nlonger  b\n"
    )


def test_an_error_shows_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    _fail(f"refused: {HOSTILE}\n  see above", Exit.REFUSED)
    assert capsys.readouterr().err == f"isthmus: refused: {SHOWN}\n  see above\n"


def test_ordinary_text_is_untouched() -> None:
    text = "Übertragung – 日本 🎬\nzweite Zeile"
    assert printable(text) == text
