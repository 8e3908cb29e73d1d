"""A mesh that tests share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from mesh.local.layout import Layout
from mesh.local.record import Record
from tests.support.collector import Collector


@dataclass(frozen=True)
class RunningMesh:
    """A mesh that runs for the whole session, without connections to it."""

    layout: Layout
    record: Record
    collector: Collector


Run = Callable[..., subprocess.CompletedProcess[str]]
"""Runs a command, given its arguments."""
