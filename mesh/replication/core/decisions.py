"""Decisions about members: what may follow what, as pure functions from table to table.

    JOINED   --leave-->  LEAVING  --drained-->    LEFT
    LEAVING  --join-->   JOINED
    LEFT     --join-->   JOINING  --caught up-->  JOINED
    LEFT     --wrote all the same-->  EVICTED
    JOINED, LEAVING, JOINING  --evict-->   EVICTED
    EVICTED  --rejoin-->  JOINING

A decision that holds already changes nothing. The home itself can be neither evicted nor leave:
first it moves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from mesh.replication.core.clocks import Vector, covers
from mesh.replication.core.errors import DecisionRefused
from mesh.replication.core.members import Member, Members, State, handed_over


@dataclass(frozen=True)
class Deciding:
    """Who decides, when (milliseconds since 1970), and what the home has then.

    `incarnation` is that of the home's present life.
    """

    actor: str
    time_ms: int
    positions: Vector
    incarnation: int


@dataclass(frozen=True)
class Word:
    """What a region says that it has on disk: last, and first since it knows what was decided.

    `decision` is the position of that decision in the home's journal.
    """

    latest: Vector
    first: Vector | None
    decision: Vector


Decision = Callable[[Members, str, Deciding], Members]


def join(members: Members, region: str, by: Deciding) -> Members:
    """Takes in again a region that left, or keeps one that was about to."""
    match members.of(region).state:
        case State.LEFT:
            return _decided(members, region, State.JOINING, by)
        case State.LEAVING:
            return _decided(members, region, State.JOINED, by)
        case State.EVICTED:
            raise DecisionRefused(
                f"{region} was evicted and may hold changes that nobody else has: bring it back "
                f"with `isthmus members rejoin {region}`"
            )
    return members


def leave(members: Members, region: str, by: Deciding) -> Members:
    """Lets a region go once all others have what it has."""
    _not_home(members, region)
    match members.of(region).state:
        case State.JOINED:
            return _decided(members, region, State.LEAVING, by)
        case State.EVICTED | State.JOINING as state:
            raise DecisionRefused(
                f"{region} is {state.name}: what it holds is not with the others yet, so it cannot "
                "leave; wait until it has joined"
                + (f" (`isthmus members rejoin {region}`)" if state is State.EVICTED else "")
            )
    return members


def evict(members: Members, region: str, by: Deciding) -> Members:
    """Goes on without a region: nothing waits for it any more."""
    _not_home(members, region)
    match members.of(region).state:
        case State.EVICTED:
            return members
        case State.LEFT:
            raise DecisionRefused(f"{region} has left: there is nothing to evict it from")
    return _decided(members, region, State.EVICTED, by)


def rejoin(members: Members, region: str, by: Deciding) -> Members:
    """Readmits an evicted region, with what it wrote meanwhile."""
    match members.of(region).state:
        case State.EVICTED:
            return _decided(members, region, State.JOINING, by)
        case State.LEFT:
            raise DecisionRefused(
                f"{region} left, and was not evicted: `isthmus members join {region}`"
            )
    return members


def move_home(members: Members, to: str) -> Members:
    """Moves the decisions to another region; fences what the former home still decides."""
    if members.home == to:
        return members
    return _moved(members, to, 0)


def take_home(members: Members, to: str, by: Deciding) -> Members:
    """Takes the decisions by force to the region that writes this, in its present life.

    It goes on from what it knows, whatever a former life of its own may have decided.
    """
    return _moved(members, to, by.incarnation)


def _moved(members: Members, to: str, incarnation: int) -> Members:
    state = members.of(to).state
    if state is not State.JOINED:
        raise DecisionRefused(f"{to} is {state.name}: the home of decisions must be a member")
    return replace(
        members,
        generation=members.generation + 1,
        home=to,
        incarnation=incarnation,
        version=1,
    )


def follow_up(
    members: Members,
    regions: Collection[str],
    home_has: Vector,
    words: Mapping[str, Word],
    by: Deciding,
) -> Members:
    """What the home decides by itself: who drained has left, who caught up has joined.

    Who left and wrote all the same has what nobody else has: it knew nothing of having left, from
    a new disk or a backup. So it stands where an evicted region does, and tombstones wait for it.

    `words` are those of the other `regions`, as far as they said anything.
    """
    for region, member in members.decided.items():
        word = words.get(region)
        if word is None:
            continue
        if member.state is State.JOINING:
            # It has what was here when it was readmitted, and what it wrote alone is here.
            caught_up = covers(word.latest, member.positions)
            known = word.first is not None and handed_over(region, word.first, [home_has])
            if caught_up and known:
                members = _decided(members, region, State.JOINED, by)
        elif member.state is State.LEAVING:
            # It knows of the decision, so it writes no more, and all have what it wrote.
            others = [home_has]
            for other in regions:
                if other not in (region, members.home) and members.holds(other):
                    others.append(words[other].latest if other in words else {})
            drained = covers(home_has, word.latest) and handed_over(region, word.latest, others)
            if covers(word.latest, word.decision) and drained:
                members = _decided(members, region, State.LEFT, by)
        elif member.state is State.LEFT and not handed_over(region, word.latest, [home_has]):
            members = _decided(members, region, State.EVICTED, by)
    return members


def _decided(members: Members, region: str, state: State, by: Deciding) -> Members:
    epoch = members.of(region).epoch + 1
    member = Member(state, epoch, dict(by.positions), by.actor, by.time_ms)
    return replace(
        members,
        incarnation=max(members.incarnation, by.incarnation),
        version=members.version + 1,
        decided={**members.decided, region: member},
    )


def _not_home(members: Members, region: str) -> None:
    if region == members.home:
        raise DecisionRefused(
            f"{region} is where members are decided: first move that, with `isthmus members home "
            "--to REGION`, to another one"
        )
