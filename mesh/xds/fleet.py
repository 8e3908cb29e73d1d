"""Which sidecar shall have what, and which has said that it has it. No I/O.

A revision holds a snapshot for each instance. `good` is what every sidecar can fall back to;
`wanted` is on trial, for all instances or for a stage of them, until it is confirmed or withdrawn.
A sidecar that connects gets `good` as long as any other one has rejected something of `wanted`: who
starts anew has nothing to go on with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from mesh.xds.resources import Snapshot
from mesh.xds.stream import Rejection, Stream, TypeView


class NoSuchInstance(Exception):
    """No revision has a snapshot for this instance."""


@dataclass(frozen=True, order=True)
class Instance:
    """A workload (or the edge) of one region; `overview@next` for another version of a workload."""

    region: str
    workload: str

    def __str__(self) -> str:
        return f"{self.region}/{self.workload}"


@dataclass(frozen=True)
class Revision:
    """What all sidecars shall have, under a name that its author gives it."""

    name: str
    snapshots: Mapping[Instance, Snapshot]


@dataclass(frozen=True)
class SidecarView:
    """How one connected client stands.

    `revision` is what it shall have, `acknowledged` the last one that it said it has, or empty, and
    when it said so. `rejection` is set while it does not take `revision`.
    """

    instance: Instance
    stream: int
    connected_ms: int
    revision: str
    acknowledged: str
    acknowledged_ms: int
    rejection: Rejection | None
    types: tuple[TypeView, ...]


@dataclass(frozen=True)
class Outcome:
    """How far a revision has come."""

    acknowledged: frozenset[Instance]
    waiting: frozenset[Instance]
    rejected: Mapping[Instance, Rejection]

    @property
    def complete(self) -> bool:
        """Whether all have it."""
        return not self.waiting and not self.rejected


S = TypeVar("S", bound=Stream)


@dataclass(eq=False)
class Session(Generic[S]):
    """One client's stream, and whose it is. `wake` is called when it may have something to say."""

    instance: Instance
    number: int
    stream: S
    revision: Revision
    connected_ms: int
    wake: Callable[[], None]
    acknowledged: str = ""
    acknowledged_ms: int = 0
    heard_ms: int = 0


@dataclass
class _Member:
    """All sessions of one instance; `pending` are those that have not acknowledged."""

    sessions: set[Session[Any]] = field(default_factory=set)
    pending: set[Session[Any]] = field(default_factory=set)
    acknowledged: str = ""
    rejection: Rejection | None = None


class Fleet:
    """All instances, their revisions and their sessions."""

    def __init__(self, good: Revision) -> None:
        self._good = good
        self._wanted = good
        self._stage: frozenset[Instance] | None = None
        self._doubted = False
        self._members: dict[Instance, _Member] = {}
        self._sessions = 0
        self._watches: set[Watch] = set()

    @property
    def good(self) -> Revision:
        """The revision that was last confirmed."""
        return self._good

    @property
    def wanted(self) -> Revision:
        """The revision on trial; `good` if there is none."""
        return self._wanted

    def offer(self, revision: Revision, stage: Collection[Instance] | None = None) -> None:
        """Puts a revision on trial, for the instances of a stage, or for all.

        The same one with another stage widens or narrows it.
        """
        if revision.name != self._wanted.name:
            self._doubted = False
            for member in self._members.values():
                member.rejection = None
        self._wanted = revision
        self._stage = None if stage is None else frozenset(stage)
        self._retarget()

    def confirm(self) -> None:
        """What was on trial is good, for all instances."""
        self._good = self._wanted
        self._stage, self._doubted = None, False
        self._retarget()

    def withdraw(self) -> None:
        """Ends the trial: everybody goes back to `good`."""
        self._wanted = self._good
        self._stage, self._doubted = None, False
        for member in self._members.values():
            member.rejection = None
        self._retarget()

    def connect(
        self,
        instance: Instance,
        stream: Callable[[Snapshot], S],
        now_ms: int,
        wake: Callable[[], None],
    ) -> Session[S]:
        """A client's new stream. Raises `NoSuchInstance`."""
        revision = self._for_newcomer(instance)
        member = self._members.setdefault(instance, _Member())
        self._sessions += 1
        session = Session(
            instance,
            self._sessions,
            stream(revision.snapshots[instance]),
            revision,
            now_ms,
            wake,
        )
        member.sessions.add(session)
        member.pending.add(session)
        return session

    def disconnect(self, session: Session[S]) -> None:
        """The stream has ended."""
        member = self._members[session.instance]
        member.sessions.discard(session)
        member.pending.discard(session)

    def heard(self, session: Session[S], now_ms: int) -> None:
        """To be called after each request of a session: notes what it has said."""
        session.heard_ms = now_ms
        self._note(session)

    def _note(self, session: Session[S]) -> None:
        member = self._members[session.instance]
        name = session.revision.name
        rejection = session.stream.rejection
        if rejection is not None:
            if rejection != member.rejection:
                member.rejection = rejection
                self._doubted = self._doubted or session.revision is self._wanted
                self._tell(session.instance)
        elif session in member.pending and session.stream.acknowledged:
            member.pending.discard(session)
            session.acknowledged = name
            session.acknowledged_ms = session.heard_ms
            if not member.pending:
                member.acknowledged = name
                member.rejection = None
                self._tell(session.instance)

    def has(self, instance: Instance) -> bool:
        """Whether there is anything for this instance."""
        return self._revision(instance) is not None

    def connected(self) -> frozenset[Instance]:
        """The instances that have a stream."""
        return frozenset(i for i, member in self._members.items() if member.sessions)

    def views(self) -> list[SidecarView]:
        """How each connected client stands, by instance."""
        return [
            SidecarView(
                instance,
                session.number,
                session.connected_ms,
                session.revision.name,
                session.acknowledged,
                session.acknowledged_ms,
                session.stream.rejection,
                session.stream.views(),
            )
            for instance, member in sorted(self._members.items())
            for session in sorted(member.sessions, key=lambda s: s.number)
        ]

    def watch(
        self,
        revision: str,
        instances: Collection[Instance] | None,
        done: Callable[[], None],
    ) -> Watch:
        """Calls `done` once all of these have it, or one has rejected it; None: who is connected.

        An instance has it if all of its streams have said so, and there is one.
        """
        watched = self.connected() if instances is None else frozenset(instances)
        watch = Watch(revision, watched, done)
        self._watches.add(watch)
        for instance in watched:
            self._tell_one(watch, instance)
        if not watched:
            done()
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Ends a watch."""
        self._watches.discard(watch)

    def _tell(self, instance: Instance) -> None:
        for watch in list(self._watches):
            if instance in watch.instances:
                self._tell_one(watch, instance)

    def _tell_one(self, watch: Watch, instance: Instance) -> None:
        member = self._members.get(instance)
        if member is None or not member.sessions:
            return
        if any(session.revision.name != watch.revision for session in member.sessions):
            return
        watch.note(instance, not member.pending, member.rejection)

    def _retarget(self) -> None:
        for instance, member in self._members.items():
            revision = self._revision(instance)
            if revision is None:
                continue  # it has no place in the new one: it keeps what it has
            for session in member.sessions:
                if session.revision is revision:
                    continue
                session.revision = revision
                member.pending.add(session)
                session.stream.retarget(revision.snapshots[instance])
                session.wake()
            for session in list(member.sessions):
                self._note(session)  # nothing may have changed for it

    def _revision(self, instance: Instance) -> Revision | None:
        staged = self._stage is None or instance in self._stage
        order = (self._wanted, self._good) if staged else (self._good,)
        return next((each for each in order if instance in each.snapshots), None)

    def _for_newcomer(self, instance: Instance) -> Revision:
        member = self._members.get(instance)
        has = member is not None and member.acknowledged == self._wanted.name
        if self._doubted and not has and instance in self._good.snapshots:
            return self._good
        found = self._revision(instance)
        if found is None:
            raise NoSuchInstance(f"revision {self._wanted.name} has nothing for {instance}")
        return found


class Watch:
    """Who has acknowledged a revision, of those that are watched."""

    def __init__(
        self, revision: str, instances: frozenset[Instance], done: Callable[[], None]
    ) -> None:
        self.revision = revision
        self.instances = instances
        self._done = done
        self._waiting = set(instances)
        self._rejected: dict[Instance, Rejection] = {}

    @property
    def outcome(self) -> Outcome:
        """How far it has come."""
        waiting = frozenset(self._waiting)
        return Outcome(
            self.instances - waiting - self._rejected.keys(), waiting, dict(self._rejected)
        )

    def note(self, instance: Instance, acknowledged: bool, rejection: Rejection | None) -> None:
        """How one of them stands now."""
        if rejection is not None:
            self._waiting.discard(instance)
            self._rejected[instance] = rejection
        elif acknowledged:
            self._waiting.discard(instance)
            self._rejected.pop(instance, None)
        if self._rejected or not self._waiting:
            self._done()
