"""The order of assignments, and a device's memory of the highest that it heard for each channel."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple


class Key(NamedTuple):
    """What orders assignments: the greater one wins."""

    epoch: int
    region: str


class Fences:
    """The highest assignment heard for each channel, kept on disk.

    A device that restarts must not obey a command that is older than one it already obeyed, so
    each new highest is fsynced before it is acted on.
    """

    def __init__(self, path: Path) -> None:
        """Reads `path` if it is there. Raises `ValueError` naming the file if it is damaged."""
        self._path = path
        self._highest: dict[str, Key] = {}
        if path.exists():
            try:
                document = json.loads(path.read_text())
                self._highest = {
                    channel: Key(int(epoch), str(region))
                    for channel, (epoch, region) in document["highest"].items()
                }
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path} is damaged ({error}): remove it if this device shall forget "
                    "which assignments it obeyed"
                ) from None

    def highest(self, channel_id: str) -> Key | None:
        """The highest assignment heard for a channel."""
        return self._highest.get(channel_id)

    def admit(self, channel_id: str, key: Key) -> bool:
        """Whether `key` is at least the highest heard; remembers it if it is higher."""
        known = self._highest.get(channel_id)
        if known is not None and key < known:
            return False
        if known != key:
            self._highest[channel_id] = key
            self._save()
        return True

    def _save(self) -> None:
        text = json.dumps({"version": 1, "highest": self._highest}, sort_keys=True)
        temporary = self._path.with_suffix(".new")
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
