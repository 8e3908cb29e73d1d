"""A small contract that compiles, and versions of it with one thing changed each."""

from __future__ import annotations

from pathlib import Path

FIXTURES = Path(__file__).parents[2] / "compat"
SHOP = (FIXTURES / "OWNER_CHANGED" / "previous" / "shop.proto").read_text()


def version(folder: Path, *changes: tuple[str, str]) -> Path:
    """A folder with the contract in which each first text is replaced by the second."""
    text = SHOP
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    folder.mkdir(parents=True)
    (folder / "shop.proto").write_text(text)
    return folder
