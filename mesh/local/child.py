"""One child process: started so that it cannot outlive this one, and started again when it dies."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

FIRST_BACKOFF = 0.2
LAST_BACKOFF = 5.0
STEADY = 10.0
"""Seconds after which a process counts as well: its next death is a first one."""

_LOG_LIMIT = 16 << 20


@dataclass(frozen=True)
class Command:
    """What to run, and where its output goes."""

    name: str
    argv: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Death:
    """A process ended although nobody had asked for it."""

    name: str
    pid: int
    code: int
    deaths: int
    """How many in a row, this one included."""
    tail: tuple[str, ...]
    """The last lines that it printed."""
    log: Path

    @property
    def cause(self) -> str:
        """``exit code 1`` or ``SIGKILL``."""
        if self.code >= 0:
            return f"exit code {self.code}"
        try:
            return signal.Signals(-self.code).name
        except ValueError:
            return f"signal {-self.code}"

    @property
    def last_words(self) -> str:
        """What it said of its end, such as ``ValueError: no``; empty if it was ended or said none.

        Log records are JSON objects, and none of them.
        """
        if self.code < 0 or not self.tail or self.tail[-1].startswith("{"):
            return ""
        return self.tail[-1].strip()


class Child:
    """Keeps one command running until `stop` or `kill`.

    `setpriv --pdeathsig KILL` makes the kernel kill the child with this process, however this one
    dies. The signal is tied to the thread that forks, so `start` belongs in the main thread. The
    child has a process group of its own: Ctrl-C at the terminal reaches the supervisor alone, which
    then stops its children in order.
    """

    def __init__(
        self,
        command: Command,
        on_death: Callable[[Death], None] | None = None,
        on_restart: Callable[[], None] | None = None,
    ) -> None:
        self.command = command
        self.deaths = 0
        self.last_death: Death | None = None
        self._on_death = on_death
        self._on_restart = on_restart
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The command's name."""
        return self.command.name

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    @property
    def wanted(self) -> bool:
        """Whether it is being kept running."""
        return self._keeper is not None

    async def start(self) -> None:
        """Starts it and keeps it running. Raises `OSError` if that cannot even be tried."""
        if self._keeper is None:
            self.deaths = 0
            self.last_death = None
            process = await self._spawn()
            self._keeper = asyncio.create_task(self._keep(process), name=f"keep {self.name}")

    async def stop(self, grace: float) -> bool:
        """SIGTERM, and SIGKILL after `grace` seconds; returns whether SIGTERM was enough."""
        await self._let_go()
        process = self._process
        if process is None or process.returncode is not None:
            return True
        _signal(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await process.wait()
        except TimeoutError:
            _signal(process, signal.SIGKILL)
            await process.wait()
            return False
        return True

    async def kill(self) -> None:
        """SIGKILL, and no restart."""
        await self._let_go()
        process = self._process
        if process is not None and process.returncode is None:
            _signal(process, signal.SIGKILL)
            await process.wait()

    def crash(self) -> int | None:
        """SIGKILL, as an accident: it is started again. Returns the pid that was hit."""
        pid = self.pid
        if pid is not None and self._process is not None:
            _signal(self._process, signal.SIGKILL)
        return pid

    async def _let_go(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            code = await process.wait()
            self.deaths = 1 if loop.time() - began > STEADY else self.deaths + 1
            self.last_death = Death(
                self.name,
                process.pid,
                code,
                self.deaths,
                tail(self.command.log),
                self.command.log,
            )
            if self._on_death is not None:
                self._on_death(self.last_death)
            await asyncio.sleep(min(FIRST_BACKOFF * 2 ** (self.deaths - 1), LAST_BACKOFF))
            process = await self._spawn()
            if self._on_restart is not None:
                self._on_restart()

    async def _spawn(self) -> asyncio.subprocess.Process:
        log = self.command.log
        log.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        if log.exists() and log.stat().st_size > _LOG_LIMIT:
            log.replace(log.with_suffix(".1.log"))
        with log.open("ab") as output:
            spawning = asyncio.create_subprocess_exec(
                *tied(self.command.argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.command.environment},
                process_group=0,
            )
            # Shielded: a process must never be forked and then forgotten by a cancelled keeper.
            spawn = asyncio.ensure_future(spawning)
            try:
                self._process = await asyncio.shield(spawn)
            except asyncio.CancelledError:
                self._process = await spawn
                raise
        return self._process


def tied(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The command, made to die with the process that starts it."""
    return (shutil.which("setpriv") or "setpriv", "--pdeathsig", "KILL", "--", *argv)


def python(module: str) -> tuple[str, ...]:
    """The command that runs a module with this interpreter."""
    return (sys.executable, "-m", module)


def tail(log: Path, lines: int = 12) -> tuple[str, ...]:
    """The last lines of a log; nothing if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 65536))
            return tuple(
                line.decode(errors="replace").rstrip() for line in deque(file, maxlen=lines)
            )
    except OSError:
        return ()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        pass  # it ended meanwhile, which is what is wanted
