"""Every option and value has a row, and the page says what the rows say."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.contracts import table
from mesh.contracts.support import INSTEAD, ROWS, Support


def test_every_option_and_value_has_exactly_one_row() -> None:
    assert {f"{owner}.{name}" for owner, names in table.declared() for name in names} == set(ROWS)


def test_what_is_not_supported_says_what_to_write_instead() -> None:
    for name, row in ROWS.items():
        if row.support is Support.NOT_YET:
            assert row.where or INSTEAD[name]
        else:
            assert row.where, name
            assert name not in INSTEAD


def test_the_page_is_up_to_date() -> None:
    assert table.main(["--check"]) == 0


def test_a_stale_page_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table, "PAGE", tmp_path / "contract-options.md")
    assert table.main(["--check"]) == 1
    assert "make generate" in capsys.readouterr().out
    assert table.main([]) == 0
    assert table.main(["--check"]) == 0
