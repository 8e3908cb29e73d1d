"""One deploy's way through its stages: a state machine without I/O, whose time is given to it.

A stage has the sidecars of those before it, and more. It is waited for until all of them have
acknowledged the revision and stand as well as before; then it is watched for a window. What is
rejected, late, worse than before, or silent ends the deploy, and says where and why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt

from mesh.place import EDGE
from mesh.xds.fleet import Instance

ILL_FOR = 3.0
"""Seconds that a sidecar may stand worse than before: a listener that changes is gone for a
moment, and one failed health check is no verdict."""

SILENT_FOR = 5.0
"""Seconds without a word of a region, or of a sidecar's agent, after which nobody can say that the
sidecars there are well."""


@dataclass(frozen=True)
class Gates:
    """What each stage must pass; times are in seconds, `more_failures` is a share of calls."""

    window: float = 10.0
    acknowledged_within: float = 20.0
    more_failures: float = 0.02
    few_failures: int = 3


@dataclass(frozen=True)
class Count:
    """Calls that ended, and those of them that failed."""

    calls: int = 0
    failures: int = 0

    def since(self, before: Count) -> Count:
        """What came after another count of the same counter."""
        return Count(self.calls - before.calls, self.failures - before.failures)

    @property
    def share(self) -> float:
        """How many of the calls failed, from 0 to 1."""
        return self.failures / self.calls if self.calls else 0.0


@dataclass(frozen=True)
class Seen:
    """How one sidecar stands; what was `heard` of it so many seconds ago at most.

    `counts` are its calls by method since its agent began to count, which `counting_since` names.
    `healthy` says of each way to other workloads how many healthy instances it has.
    """

    connected: bool
    revision: str
    acknowledged: str
    rejection: str = ""
    heard: float = 0.0
    counting_since: int = 0
    counts: Mapping[str, Count] = field(default_factory=dict)
    healthy: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A name for people, and all sidecars that have the revision by the end of it."""

    name: str
    instances: frozenset[Instance]


@dataclass(frozen=True)
class Fault:
    """Why a deploy is taken back: at which sidecar, and in which method if one is known."""

    reason: str
    instance: Instance | None = None
    method: str = ""


@dataclass(frozen=True)
class Step:
    """Where a deploy stands: `watching` a stage, or waiting until it has the revision."""

    stage: Stage
    watching: bool = False
    done: bool = False
    fault: Fault | None = None


def stages(
    changed: Collection[Instance], order: Sequence[Instance], first: Instance | None = None
) -> list[Stage]:
    """One sidecar, then its region, then the rest; stages that add nothing are left out.

    The first one is a sidecar that changes, by the order in which all are given; an edge only if
    nothing else does.
    """
    everybody = frozenset(order)
    if first is None:
        ranked = [each for each in order if each in changed] or list(order)
        first = min(ranked, key=lambda each: each.workload == EDGE)
    found = [
        Stage(str(first), frozenset({first})),
        Stage(first.region, frozenset(i for i in everybody if i.region == first.region)),
        Stage("the rest", everybody),
    ]
    return [
        stage
        for number, stage in enumerate(found)
        if not number or stage.instances > found[number - 1].instances
    ]


class Deployment:
    """A deploy that is under way. `now` is seconds of a clock that does not go back."""

    def __init__(self, revision: str, order: Sequence[Stage], gates: Gates) -> None:
        self.revision = revision
        self._order = order
        self._gates = gates
        self._number = 0
        self._began: float | None = None
        self._watched: float | None = None
        self._ill: dict[tuple[Instance, str], float] = {}
        # How it was before, which is what counts as well.
        self._first: dict[Instance, Seen] = {}
        self._usual: dict[Instance, Seen] = {}
        self._from: dict[Instance, Seen] = {}

    @property
    def stage(self) -> Stage:
        """The stage that it is in."""
        return self._order[self._number]

    def note(self, seen: Mapping[Instance, Seen]) -> None:
        """How the sidecars stand before any of them has the revision."""
        for instance, each in seen.items():
            first = self._first.get(instance)
            if first is None or first.counting_since != each.counting_since:
                self._first[instance] = each
        self._usual = dict(seen)

    def step(self, now: float, seen: Mapping[Instance, Seen]) -> Step:
        """What to do, now that the sidecars stand like this."""
        if self._began is None:
            self._began = now
            self._from = dict(seen)
        fault = self._rejected(seen) or self._silent(seen) or self._worse(now, seen)
        if fault is None and self._watched is None:
            missing = self._missing(seen)
            if not missing and not self._ill:
                self._watched = now
            elif now - self._began >= self._gates.acknowledged_within:
                fault = self._late(missing, seen)
        if fault is None:
            fault = self._failing(seen)
        if fault is not None:
            return Step(self.stage, self._watched is not None, fault=fault)
        if self._watched is not None and now - self._watched >= self._gates.window:
            if self._number + 1 == len(self._order):
                return Step(self.stage, True, done=True)
            self._number += 1
            self._began, self._watched = now, None
        return Step(self.stage, self._watched is not None)

    def _rejected(self, seen: Mapping[Instance, Seen]) -> Fault | None:
        for instance in sorted(self.stage.instances):
            each = seen.get(instance)
            if each is not None and each.rejection and each.revision == self.revision:
                return Fault(f"{instance} rejects it: {each.rejection}", instance)
        return None

    def _silent(self, seen: Mapping[Instance, Seen]) -> Fault | None:
        for instance in sorted(self.stage.instances):
            if instance in self._usual and self._usual[instance].connected:
                each = seen.get(instance)
                if each is None or each.heard > SILENT_FOR:
                    return Fault(f"nothing is heard of {instance} any more", instance)
        return None

    def _worse(self, now: float, seen: Mapping[Instance, Seen]) -> Fault | None:
        """What stands worse than before for too long, anywhere: others call what has changed."""
        ill: dict[tuple[Instance, str], float] = {}
        for instance, each in seen.items():
            usual = self._usual.get(instance)
            if usual is None:
                continue
            found = {
                f"{instance} has {each.healthy[cluster]} healthy instances of {cluster}, "
                f"{count} before"
                for cluster, count in usual.healthy.items()
                if each.healthy.get(cluster, count) < count
            }
            if usual.connected and not each.connected:
                found.add(f"{instance} has lost the control plane")
            for what in found:
                ill[instance, what] = self._ill.get((instance, what), now)
        self._ill = ill
        for (instance, what), since in sorted(ill.items()):
            if now - since >= ILL_FOR:
                return Fault(what, instance)
        return None

    def _missing(self, seen: Mapping[Instance, Seen]) -> list[Instance]:
        return [
            instance
            for instance in sorted(self.stage.instances)
            if instance not in seen or seen[instance].acknowledged != self.revision
        ]

    def _late(self, missing: Sequence[Instance], seen: Mapping[Instance, Seen]) -> Fault:
        within = f"within {self._gates.acknowledged_within:g} s"
        if not missing:
            (instance, what), _ = sorted(self._ill.items())[0]
            return Fault(f"{what}, and not {within}", instance)
        named = ", ".join(map(str, missing[:4])) + (" and others" if len(missing) > 4 else "")
        gone = [each for each in missing if each not in seen or not seen[each].connected]
        note = " (not connected)" if len(gone) == len(missing) else ""
        return Fault(f"{named} did not acknowledge it {within}{note}", missing[0])

    def _failing(self, seen: Mapping[Instance, Seen]) -> Fault | None:
        """Whether more calls fail than before, at any sidecar."""
        for instance, each in sorted(seen.items()):
            before = self._from.get(instance)
            if before is None or before.counting_since != each.counting_since:
                self._from[instance] = each  # its agent counts anew
                continue
            now = _since(each, before)
            total = _sum(now.values())
            if total.failures <= self._gates.few_failures:
                continue
            usual = self._usual_share(instance)
            if total.failures > _most_failures(total.calls, usual, self._gates.more_failures):
                method = max(now, key=lambda path: now[path].failures)
                return Fault(
                    f"{total.failures} of {total.calls} calls failed at {instance}, "
                    f"{now[method].failures} of them {method[1:]} "
                    f"(before: {100 * usual:.1f} %)",
                    instance,
                    method,
                )
        return None

    def _usual_share(self, instance: Instance) -> float:
        first, last = self._first.get(instance), self._usual.get(instance)
        if first is None or last is None or first.counting_since != last.counting_since:
            return 0.0
        return _sum(_since(last, first).values()).share


def _most_failures(calls: int, usual: float, more: float) -> float:
    """How many of so many calls may fail where a share fails as usual, and one may fail more.

    What fails as usual, such as calls to a region that is down, does so by chance more often or
    less: three standard deviations of the binomial distribution, since it is looked at often.
    """
    return calls * (usual + more) + 3 * sqrt(calls * usual * (1 - usual))


def _since(seen: Seen, before: Seen) -> dict[str, Count]:
    return {
        path: count.since(before.counts.get(path, Count())) for path, count in seen.counts.items()
    }


def _sum(counts: Iterable[Count]) -> Count:
    counts = list(counts)
    return Count(sum(each.calls for each in counts), sum(each.failures for each in counts))
