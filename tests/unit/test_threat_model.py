"""docs/threat-model.md names tests: each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs/threat-model.md").read_text())


def test_every_test_that_it_names_exists() -> None:
    assert len(NAMED) > 30
    for file, test in NAMED:
        text = (ROOT / file).read_text()
        assert not test or re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), (file, test)
