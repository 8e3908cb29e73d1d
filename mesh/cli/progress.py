"""Shows how a mesh starts and stops: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

from mesh.cli.terminal import printable
from mesh.local.progress import Progress, Stage, Watcher


@contextmanager
def view(*, quiet: bool) -> Iterator[Watcher]:
    """A watcher that prints to stderr; `quiet` prints troubles alone."""
    console = Console(stderr=True, highlight=False)
    if quiet:
        yield _Lines(console, troubles_only=True)
    elif sys.stderr.isatty():
        with console.status("Starting") as status:
            yield _Live(console, status)
    else:
        yield _Lines(console, troubles_only=False)


class _Lines:
    """One line for each part that is ready, and for each trouble."""

    def __init__(self, console: Console, *, troubles_only: bool) -> None:
        self._console = console
        self._troubles_only = troubles_only

    def __call__(self, progress: Progress) -> None:
        if progress.stage in (Stage.DIED, Stage.NOTE):
            _trouble(self._console, progress)
        elif progress.stage is Stage.READY and not self._troubles_only:
            self._console.print(f"{progress.part} ready", markup=False, soft_wrap=True)


class _Live:
    """What is being waited for, on one line that changes."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console = console
        self._status = status
        self._starting: list[str] = []
        self._ready = 0

    def __call__(self, progress: Progress) -> None:
        if progress.part in self._starting:
            self._starting.remove(progress.part)
        match progress.stage:
            case Stage.STARTING:
                self._starting.append(progress.part)
            case Stage.READY:
                self._ready += 1
            case Stage.DIED | Stage.NOTE:
                _trouble(self._console, progress)
            case Stage.STOPPED:
                self._ready -= 1
        if self._starting:
            self._status.start()
            self._status.update(
                f"{self._ready} ready; starting {', '.join(self._starting[:6])}"
                + (" …" if len(self._starting) > 6 else "")
            )
        elif progress.stage is Stage.STOPPED:
            self._status.update(f"Stopping; {max(0, self._ready)} left")
        else:
            self._status.stop()


def _trouble(console: Console, progress: Progress) -> None:
    line = printable(f"{progress.part}: {progress.detail}", lines=False)
    console.print(line, markup=False, soft_wrap=True)
