"""The program of a device: `python -m services.device_agent.main`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

import imageio_ffmpeg
import structlog

from services.device_agent import config as configuration
from services.device_agent.agent import Agent
from services.device_agent.certificate import keep_fresh, obtain
from services.device_agent.config import Config, ConfigError
from services.device_agent.encoder import Studio
from services.device_agent.fences import Fences
from services.device_agent.uplink import Uplink

_log = structlog.get_logger("isthmus.device")


def main() -> None:
    """Runs until SIGTERM. Exit codes: 0 stopped, 1 failed, 2 misconfigured."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    try:
        config = configuration.read(sys.argv[1:])
        sys.exit(asyncio.run(run(config)))
    except ConfigError as error:
        print(f"device: {error}", file=sys.stderr)
        sys.exit(2)


async def run(config: Config) -> int:
    """The device's life; returns the exit code. Raises `ConfigError`."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    changed = asyncio.Event()
    try:
        config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        config.output.mkdir(parents=True, exist_ok=True)
        fences = Fences(config.state / "fences.json")
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from None
    studio = Studio(
        config.device_id,
        config.ffmpeg or imageio_ffmpeg.get_ffmpeg_exe(),
        config.media_root,
        config.output,
    )
    agent = Agent(studio, fences, changed.set)
    work = asyncio.create_task(_work(config, agent, changed))
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return 0
        problem = work.exception()
        if isinstance(problem, ConfigError):
            raise problem
        _log.error("the device failed", exc_info=problem)
        return 1
    finally:
        for task in (work, waiting):
            task.cancel()
        await asyncio.gather(work, waiting, return_exceptions=True)
        await agent.stop()


async def _work(config: Config, agent: Agent, changed: asyncio.Event) -> None:
    found = await obtain(config)
    fresh = asyncio.create_task(keep_fresh(config, found))
    try:
        await Uplink(config, agent, changed).run()
    finally:
        fresh.cancel()
        await asyncio.gather(fresh, return_exceptions=True)


if __name__ == "__main__":
    main()
