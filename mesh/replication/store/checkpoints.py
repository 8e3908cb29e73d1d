"""Moves what is committed from SQLite's write-ahead log into the database, beside the commits.

SQLite would do it inside of whichever commit makes the log long, which then waits for two more
syncs of the disk.
"""

from __future__ import annotations

import logging
import sqlite3
import threading

_log = logging.getLogger("isthmus.replication")

EVERY_SECONDS = 1.0

LONGEST_LOG = 16_384
"""In pages of 4 KiB. Beyond that one commit moves the rest itself, so that the log begins anew."""


class Checkpoints:
    """A thread of its own; `connection` is for it alone, and closed with it.

    `too_long`: the log cannot begin anew, for more is written whenever all of it has been moved.
    """

    def __init__(self, name: str, connection: sqlite3.Connection) -> None:
        self.too_long = False
        self._connection = connection
        self._written = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"checkpoint-{name}", daemon=True)
        self._thread.start()

    def written(self, writer: sqlite3.Cursor) -> None:
        """The writer has committed something."""
        if self.too_long:
            self.too_long = False
            move(writer)
        self._written.set()

    def close(self) -> None:
        """Ends the thread; what is in the log stays there."""
        self._closing.set()
        self._written.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while self._written.wait() and not self._closing.is_set():
            self._written.clear()
            try:
                self.too_long = move(self._connection.cursor()) > LONGEST_LOG
            except sqlite3.Error as error:
                # All of it is in the log still, and the next commit finds out for itself.
                _log.warning("%s: checkpoint: %s", self._thread.name, error)
            self._closing.wait(EVERY_SECONDS)


def move(cursor: sqlite3.Cursor) -> int:
    """Moves what no reader needs in the log, and waits for nobody; returns its length in pages."""
    _, pages, _ = cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(pages)
