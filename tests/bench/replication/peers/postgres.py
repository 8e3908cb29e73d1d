"""PostgreSQL logical replication: a journal table, and the state that it is merged into.

In eu each transaction appends to the journal and upserts the state, by a trigger for the statement;
in us the journal's rows arrive one by one, and a trigger for the row upserts. One way.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.bench.replication import payload
from tests.bench.replication.contract import FIELDS
from tests.bench.replication.peers import debs

DURABILITY = "fsync on; eu commits with synchronous_commit=on, us counts once its WAL is flushed"
PACK = 4096
"""Changes a transaction: more than others get, since it gains most by it."""

_SETTINGS = {
    "listen_addresses": "",
    "wal_level": "logical",
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "30min",
    "wal_buffers": "64MB",
}
_INITDB = ("-U", "bench", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
_COLUMNS = ", ".join(FIELDS)
_TYPES = ", ".join(f"{field} text" for field in FIELDS)
_UPSERT = (
    "ON CONFLICT (id) DO UPDATE SET clock = excluded.clock, "
    + ", ".join(f"{field} = excluded.{field}" for field in FIELDS)
    + " WHERE thing.clock <= excluded.clock"
)
_TABLES = f"""
CREATE TABLE journal (sequence bigint PRIMARY KEY, id text, clock bigint, {_TYPES});
CREATE TABLE thing (id text PRIMARY KEY, clock bigint, {_TYPES});
"""
_SOURCE = f"""
CREATE SEQUENCE sequence CACHE {PACK};
CREATE UNLOGGED TABLE drawn (n int PRIMARY KEY, id text, {_TYPES});
CREATE FUNCTION merge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO public.thing AS thing (id, clock, {_COLUMNS})
  SELECT DISTINCT ON (id) id, clock, {_COLUMNS} FROM fresh ORDER BY id, sequence DESC
  {_UPSERT};
  RETURN NULL;
END $$;
CREATE TRIGGER merge AFTER INSERT ON journal REFERENCING NEW TABLE AS fresh
  FOR EACH STATEMENT EXECUTE FUNCTION merge();
CREATE PUBLICATION changes FOR TABLE journal;
"""  # noqa: S608 # made of constants
# An apply worker has no search path.
_TARGET = f"""
CREATE FUNCTION merge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO public.thing AS thing (id, clock, {_COLUMNS})
  VALUES (NEW.id, NEW.clock, {", ".join(f"NEW.{field}" for field in FIELDS)})
  {_UPSERT};
  RETURN NULL;
END $$;
CREATE TRIGGER merge AFTER INSERT ON journal FOR EACH ROW EXECUTE FUNCTION merge();
ALTER TABLE journal ENABLE REPLICA TRIGGER merge;
"""  # noqa: S608 # as above
_INSERT = f"""
INSERT INTO journal SELECT nextval('sequence'), id, %s, {_COLUMNS}
FROM drawn WHERE n >= %s AND n < %s
"""  # noqa: S608 # as above
_START_SECONDS = 60.0
_DRAIN_SECONDS = 300.0


@dataclass
class Replicated:
    """Two clusters: eu publishes, us subscribes."""

    source: psycopg.AsyncConnection[tuple[object, ...]]
    target: psycopg.AsyncConnection[tuple[object, ...]]

    async def flushed(self) -> bool:
        """Whether us has flushed all that eu has committed."""
        found = await self.source.execute(
            "SELECT coalesce(bool_and(flush_lsn >= pg_current_wal_flush_lsn()), false)"
            " FROM pg_stat_replication"
        )
        row = await found.fetchone()
        return bool(row and row[0])


@asynccontextmanager
async def running() -> AsyncIterator[Replicated]:
    """Two fresh clusters that replicate. Raises `NoPeers`."""
    programs = debs.ensure() / "usr" / "lib" / "postgresql" / "15" / "bin"
    root = Path(tempfile.mkdtemp(prefix="ist-pg-"))
    user = _user()
    if user is not None:
        shutil.chown(root, user)
    processes = []
    connections = []
    try:
        for name in ("eu", "us"):
            data = root / name
            await asyncio.to_thread(
                subprocess.run,
                [programs / "initdb", "-D", data, *_INITDB],
                check=True,
                capture_output=True,
                env=debs.environment(),
                user=user,
                cwd=root,
            )
            settings = [f"-c{key}={value}" for key, value in _SETTINGS.items()]
            settings += [f"-cunix_socket_directories={root}", f"-cport={_PORTS[name]}"]
            with (root / f"{name}.log").open("wb") as log:
                processes.append(
                    await asyncio.create_subprocess_exec(
                        *debs.DIES_WITH_US,
                        programs / "postgres",
                        "-D",
                        data,
                        *settings,
                        stdout=log,
                        stderr=log,
                        env=debs.environment(),
                        user=user,
                        cwd=root,
                    )
                )
            connections.append(await _connect(root, name))
        source, target = connections
        await source.execute(_TABLES + _SOURCE)
        await target.execute(_TABLES + _TARGET)
        await target.execute(
            f"CREATE SUBSCRIPTION changes CONNECTION '{_address(root, 'eu')}' PUBLICATION changes"
        )
        replicated = Replicated(source, target)
        deadline = time.monotonic() + _START_SECONDS
        while not await replicated.flushed():
            if time.monotonic() > deadline:
                raise TimeoutError("the subscription did not start")
            await asyncio.sleep(0.05)
        yield replicated
    finally:
        for connection in connections:
            await connection.close()
        for process in processes:
            process.send_signal(signal.SIGINT)  # a fast shutdown, whoever is connected
        for process in processes:
            await process.wait()
        shutil.rmtree(root)


_PORTS = {"eu": 5432, "us": 5433}
"""They only name the sockets."""


def _user() -> int | None:
    """PostgreSQL does not run as root: whom it runs as then."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def _address(root: Path, name: str) -> str:
    return f"host={root} port={_PORTS[name]} user=bench dbname=postgres"


async def _connect(root: Path, name: str) -> psycopg.AsyncConnection[tuple[object, ...]]:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            return await psycopg.AsyncConnection.connect(_address(root, name), autocommit=True)
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


async def measure(distribution: str, seconds: float) -> dict[str, float]:
    """Changes a second, written from a table inside eu, until us has merged and flushed them."""
    async with running() as replicated:
        await _draw(replicated, distribution)
        changes = 0
        started = time.monotonic()
        while time.monotonic() < started + seconds:
            at = changes % payload.DRAWN
            await replicated.source.execute(_INSERT, (time.time_ns(), at, at + PACK), prepare=True)
            changes += PACK
        async with asyncio.timeout(_DRAIN_SECONDS):
            while not await replicated.flushed():
                await asyncio.sleep(0.01)
        lasted = time.monotonic() - started
        await _check(replicated)
    return {"rate": changes / lasted}


async def _draw(replicated: Replicated, distribution: str) -> None:
    things = payload.whole(distribution, seed=7)
    into = f"COPY drawn (n, id, {_COLUMNS}) FROM STDIN"
    async with replicated.source.cursor() as cursor, cursor.copy(into) as copy:
        for number, thing in enumerate(things):
            await copy.write_row((number, thing.id, *(getattr(thing, f) for f in FIELDS)))
    await replicated.source.execute("ANALYZE drawn")


async def _check(replicated: Replicated) -> None:
    """Both hold the same. Raises `RuntimeError`."""
    sums = []
    for connection in (replicated.source, replicated.target):
        found = await connection.execute("SELECT count(*), sum(hashtext(thing::text)) FROM thing")
        sums.append(await found.fetchone())
    if sums[0] != sums[1]:
        raise RuntimeError(f"the two clusters hold different states: {sums}")
