"""What keeps the gate from answering. It is never a pass."""

from __future__ import annotations


class GateError(Exception):
    """What is wrong, where, and what to do."""


class NoVersion(GateError):
    """A version that is named does not exist."""


class ToolMissing(GateError):
    """A program that the gate runs is not installed."""
