"""Other control planes, measured in the same run with the same resources.

They are given resources that are ready: only Isthmus's figure includes compiling the contract.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[4] / "build" / "peers"


class NoPeer(Exception):
    """A peer cannot be had; the message says why and what to do."""
