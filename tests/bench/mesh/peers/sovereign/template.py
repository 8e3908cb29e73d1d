"""Sovereign's template: resources that lie ready in a file, so that it renders nothing.

Sovereign runs this in its own environment, and calls it for each poll.
"""

import json
import os
from pathlib import Path
from typing import Any

FILE = Path(os.environ["BENCH_RESOURCES"])
"""JSON: resources by the name of their collection."""

_read: dict[str, Any] = {"at": 0, "resources": {}}


def call(discovery_request: Any, **_context: Any) -> list[dict[str, Any]]:
    """The resources of the collection that is asked for, as of the file's last change."""
    at = FILE.stat().st_mtime_ns
    if at != _read["at"]:
        _read["resources"] = json.loads(FILE.read_text())
        _read["at"] = at
    found: list[dict[str, Any]] = _read["resources"][discovery_request.type_url]
    return found
