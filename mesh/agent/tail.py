"""Reads what is appended to a log that is put aside when it is full (`mesh.agent.pages`)."""

from __future__ import annotations

from pathlib import Path

_PIECE = 1 << 20


class LogTail:
    """What comes from now on, by whole lines; at most `most` bytes at once, the last of them."""

    def __init__(self, log: Path, most: int) -> None:
        self._log = log
        self._most = most
        self._at = self._size()
        self._rest = b""
        self.skipped = 0
        """Lines that were passed over since it began."""

    def read(self) -> list[bytes]:
        """The lines that have come."""
        size = self._size()
        if size < self._at:
            self._at, self._rest = 0, b""  # a new file
        if size == self._at:
            return []
        with self._log.open("rb") as file:
            file.seek(self._at)
            while size - self._at > self._most:
                passed = file.read(min(_PIECE, size - self._at - self._most))
                self.skipped += passed.count(b"\n")
                self._at += len(passed)
                self._rest = b""
            data = self._rest + file.read(size - self._at)
        self._at = size
        *lines, self._rest = data.split(b"\n")
        return lines

    def _size(self) -> int:
        try:
            return self._log.stat().st_size
        except OSError:
            return 0
