"""Clients: sessions that read and write, move between regions, repeat, and write down all of it."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from tests.faults.history import (
    ACKNOWLEDGED,
    HURRIED,
    PENDING,
    REFUSED,
    UNKNOWN,
    Attempt,
    History,
    State,
)
from tests.faults.processes import Connection, Process, RegionFailed

WAIT_SECONDS = 1.5
"""How long a region may wait for a session's token, or for other regions' disks."""

ANSWER_SECONDS = 8.0
"""After that a client no longer waits for an answer."""

BEGINNER = "begin"
"""The client that makes what the others build on."""

MORTAL = [f"mortal-{n}" for n in range(4)]
"""Entities that are deleted and created again."""

LASTING = [f"lasting-{n}" for n in range(4)]
PAIRS = [(f"left-{n}", f"right-{n}") for n in range(3)]
"""Entities that are only written both at once, with the same value."""

HURRIED_SECONDS = 0.02
"""Some writes are given up within this time, and are then repeated elsewhere: as by a sidecar whose
try was too short."""

_MOVES = 0.05
_HURRIES = 0.05
_PAUSE_SECONDS = 0.03
_GIVE_UP_AFTER = 3


def beginnings() -> list[list[list[Any]]]:
    """Writes that a run begins with."""
    single = [
        [["create", key, {"latest": f"begin.{key}", "stock": 200, "count": 1}]]
        for key in MORTAL + LASTING
    ]
    pairs = [
        [["create", left, {"latest": "begin"}], ["create", right, {"latest": "begin"}]]
        for left, right in PAIRS
    ]
    return single + pairs


class Client:
    """One client, at home in a region, with a token that it carries wherever it goes."""

    def __init__(
        self, name: str, home: str, processes: dict[str, Process], history: History, seed: str
    ) -> None:
        self._name = name
        self._processes = processes
        self._history = history
        self._random = random.Random(seed)  # noqa: S311 # a seed makes the same choices again
        self._region = home
        self._home = home
        self._sessions = 1
        self._token = ""
        self._count = 0
        self._behind = 0
        self._seen: dict[str, State] = {}
        self._mine: list[str] = []
        self._connections: dict[tuple[str, int], Connection] = {}
        self._before: Attempt | None = None

    async def run(self, ended: asyncio.Event) -> None:
        """Goes on until `ended`."""
        try:
            while not ended.is_set():
                if self._random.random() < _MOVES:
                    self._region = self._random.choice([self._home, *self._processes])
                await self._act()
                await asyncio.sleep(self._random.random() * 2 * _PAUSE_SECONDS)
        finally:
            self._close()

    async def begin(self) -> None:
        """Writes what the others build on. Raises `RegionFailed` if a write is not taken."""
        try:
            for write in beginnings():
                attempt = await self._write(write)
                if attempt.outcome not in (ACKNOWLEDGED, PENDING):
                    raise RegionFailed(f"{self._region}: {attempt.outcome} {attempt.error}")
        finally:
            self._close()

    def _close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    async def _act(self) -> None:
        chance = self._random.random()
        before = self._before
        if before is not None and chance < _chance_of_repeat(before):
            await self._again(before)
        elif chance < 0.35:
            await self._read()
        else:
            await self._write(self._choose())

    async def _again(self, before: Attempt) -> None:
        """Repeats a write under its id, here or elsewhere."""
        others = [region for region in self._processes if region != before.region]
        self._region = self._random.choice([before.region, *others, *others])
        again = self._attempt(before.request, before.write, before.durability)
        again.repeated = True
        await self._send(again)
        self._before = again

    async def _read(self) -> None:
        keys = self._random.choice(
            [
                [self._random.choice(MORTAL + LASTING)],
                list(self._random.choice(PAIRS)),
                self._mine[-1:] or LASTING[:1],
            ]
        )
        attempt = self._attempt("", [], "REGION")
        attempt.keys = keys
        await self._send(attempt)

    async def _write(self, write: list[list[Any]]) -> Attempt:
        durability = self._random.choices(("REGION", "ONE_PEER", "MAJORITY"), (8, 1, 1))[0]
        attempt = self._attempt(f"{self._name}.{self._count + 1}", write, durability)
        hurries = self._name != BEGINNER and self._random.random() < _HURRIES
        await self._send(attempt, self._random.random() * HURRIED_SECONDS if hurries else None)
        self._before = attempt
        return attempt

    @property
    def _session(self) -> str:
        return f"{self._name}/{self._sessions}"

    def _attempt(self, request: str, write: list[list[Any]], durability: str) -> Attempt:
        self._count += 1
        return Attempt(
            uid=f"{self._name}.{self._count}",
            request=request,
            session=self._session,
            region=self._region,
            start=time.monotonic(),
            write=write,
            durability=durability,
        )

    async def _send(self, attempt: Attempt, hurry: float | None = None) -> None:
        self._history.attempts.append(attempt)
        try:
            async with asyncio.timeout(ANSWER_SECONDS if hurry is None else hurry):
                connection = await self._connected(attempt)
                if connection is not None:
                    answer = await self._ask(connection, attempt)
                    self._learn(attempt, answer)
        except (OSError, TimeoutError) as error:
            hurried = hurry is not None and isinstance(error, TimeoutError)
            attempt.error = HURRIED if hurried else type(error).__name__
            self._disconnect(attempt)
        attempt.end = time.monotonic()
        if attempt.outcome in (UNKNOWN, REFUSED) and attempt.error not in _ORDINARY:
            self._region = self._random.choice([self._home, *self._processes])

    async def _connected(self, attempt: Attempt) -> Connection | None:
        found = self._connections.get(self._place(attempt))
        if found is None:
            try:
                found = await self._processes[attempt.region].connect()
            except OSError:
                attempt.outcome, attempt.error = REFUSED, "NotListening"
                return None
            self._connections[self._place(attempt)] = found
        return found

    def _place(self, attempt: Attempt) -> tuple[str, int]:
        """A region's process: to a connection of its former life nobody answers."""
        return attempt.region, self._processes[attempt.region].lives

    def _disconnect(self, attempt: Attempt) -> None:
        connection = self._connections.pop(self._place(attempt), None)
        if connection is not None:
            connection.close()

    async def _ask(self, connection: Connection, attempt: Attempt) -> dict[str, Any]:
        session = {"token": self._token, "seconds": WAIT_SECONDS}
        if not attempt.write:
            return await connection.ask("read", keys=attempt.keys, **session)
        return await connection.ask(
            "write",
            uid=attempt.uid,
            request=attempt.request,
            write=attempt.write,
            durability=attempt.durability,
            repeated=attempt.repeated,
            **session,
        )

    def _learn(self, attempt: Attempt, answer: dict[str, Any]) -> None:
        attempt.error = answer.get("error", "")
        attempt.by = answer.get("by", "")
        attempt.saw = answer.get("saw", {})
        attempt.read = answer.get("read", {})
        attempt.position = answer.get("position", [])
        if attempt.error == "DurabilityPending":
            attempt.outcome = PENDING if attempt.by else UNKNOWN
        elif attempt.error:
            attempt.outcome = REFUSED
        else:
            attempt.outcome = ACKNOWLEDGED
            self._token = answer["token"]
        self._seen.update(attempt.saw if attempt.by == attempt.uid else {})
        self._seen.update(attempt.read)
        self._behind = self._behind + 1 if attempt.error == "NotYetHere" else 0
        if self._behind >= _GIVE_UP_AFTER:
            # What it saw may be on a lost disk alone: it begins anew.
            self._behind = 0
            self._sessions += 1
            self._token = ""
            self._seen.clear()

    # What to write.

    def _choose(self) -> list[list[Any]]:
        value = f"{self._name}.{self._count + 1}"
        kind = self._random.choices(("new", "pair", "mortal", "lasting"), (2, 2, 3, 4))[0]
        if kind == "new":
            self._mine.append(f"new-{value}")
            fields = {"latest": value, "first": value, "labels": [value], "stock": 3}
            return [["create", f"new-{value}", fields]]
        if kind == "pair":
            return [["set", key, "latest", value] for key in self._random.choice(PAIRS)]
        if kind == "mortal":
            key = self._random.choice(MORTAL + self._mine[-3:])
            if self._seen.get(key, {}).get("deleted"):
                fields = {"latest": value, "stock": 50, "labels": [value]}
                return [["create", key, fields]]
            if self._random.random() < 0.25:
                return [["delete", key]]
        else:
            key = self._random.choice(LASTING)
        several = self._random.sample(range(len(_CHANGES)), self._random.choice((1, 1, 2, 3)))
        return [self._change(_CHANGES[each], key, value) for each in several]

    def _change(self, kind: str, key: str, value: str) -> list[Any]:
        number = self._random.randint(1, 1_000_000)
        seen = self._seen.get(key, {})
        match kind:
            case "latest" | "first" | "note":
                return ["set", key, kind, value]
            case "most" | "least":
                return ["set", key, kind, number]
            case "count":
                return ["increment", key, "count", self._random.randint(1, 5)]
            case "take":
                return ["increment", key, "stock", -self._random.randint(1, 12)]
            case "give":
                return ["increment", key, "stock", self._random.randint(1, 8)]
            case "put":
                return ["put", key, self._random.choice("abc"), value]
            case "drop":
                return ["drop", key, self._random.choice("abc")]
            case "remove" if seen.get("labels"):
                return ["remove", key, self._random.choice(seen["labels"])]
        return ["add", key, value]


def _chance_of_repeat(attempt: Attempt) -> float:
    unknown = attempt.outcome == UNKNOWN or attempt.error == "OperationUnknown"
    if unknown or attempt.outcome == PENDING:
        return 0.9
    return 0.05 if attempt.outcome == ACKNOWLEDGED else 0.0


_CHANGES = (
    *("latest", "first", "note", "most", "least", "count"),
    *("take", "give", "put", "drop", "add", "remove"),
)
_ORDINARY = ("NotFound", "AlreadyExists", "RightsShort")
