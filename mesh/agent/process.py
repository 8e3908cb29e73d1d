"""The Envoy process: started so that it cannot outlive its agent; why it ended, if it did."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

from mesh.agent.errors import AgentError, PortTaken, SidecarDied
from mesh.envoy import binary

_BIND = re.compile(r"cannot bind '([^']+)': (.+)")
_LOG_LIMIT = 16 << 20
_TAIL = 16 << 10
# Listeners that drain do so within this; Envoy's own default is ten minutes.
DRAIN_SECONDS = 2


class EnvoyProcess:
    """One run of Envoy.

    `setpriv --pdeathsig KILL` makes the kernel kill it with its agent, however that dies. The
    signal is tied to the thread that forks, so `start` belongs in the main thread.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: Path, began: int) -> None:
        self._process = process
        self._log = log
        self._began = began

    @classmethod
    async def start(
        cls, bootstrap: Path, log: Path, folder: Path, succession: list[str]
    ) -> EnvoyProcess:
        """Starts Envoy in `folder`; its log is appended to `log`.

        `succession` are the options of `mesh.agent.hot_restart`.
        """
        command = [
            *("setpriv", "--pdeathsig", "KILL", "--"),
            str(binary.envoy_binary()),
            *("--config-path", str(bootstrap.absolute())),
            # One worker: a sidecar beside one process, on a machine that it shares with many.
            *("--concurrency", "1"),
            *succession,
            *("--drain-time-s", str(DRAIN_SECONDS)),
            *("--drain-strategy", "immediate"),
            # Access logs a second late at most: deploys are judged by them.
            *("--file-flush-interval-msec", "1000"),
            *("--log-level", "warning"),
        ]
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > _LOG_LIMIT:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            began = output.tell()
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C at the terminal is for the supervisor, which stops its children in order.
                process_group=0,
            )
        return cls(process, log, began)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exited(self) -> bool:
        """Whether it has ended."""
        return self._process.returncode is not None

    async def wait(self) -> int:
        """Returns its exit code (negative: the signal) once it has ended."""
        return await self._process.wait()

    async def stop(self, grace: float) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    def reopen_logs(self) -> None:
        """Has it open its logs of calls anew, after they were moved."""
        self._signal(signal.SIGUSR1)

    async def kill(self) -> None:
        """SIGKILL."""
        self._signal(signal.SIGKILL)
        await self._process.wait()

    def failure(self) -> AgentError:
        """Why it ended, in one sentence, from what it logged."""
        said = self._said()
        if taken := _BIND.search(said):
            return PortTaken(
                f"{taken[1]} cannot be used: {taken[2].strip()}. Stop what listens there "
                "(`ss -ltnp` names it), or change base_port in mesh.yaml"
            )
        code = self._process.returncode
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = signal.Signals(-code).name
        why = f": {binary.reason(said)}" if said.strip() else ""
        return SidecarDied(f"Envoy ended with {how}{why} (its log: {self._log})")

    def _said(self) -> str:
        with self._log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(min(self._began, size), size - _TAIL))
            return file.read().decode(errors="replace")

    def _signal(self, number: signal.Signals) -> None:
        if not self.exited:
            try:
                self._process.send_signal(number)
            except ProcessLookupError:
                pass  # it ended meanwhile
