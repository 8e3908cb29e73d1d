"""Methods that come and go, and who may call them."""

from __future__ import annotations

from collections.abc import Iterator

from mesh.compat.pair import Pair
from mesh.compat.rules.rule import Found, Rule
from mesh.compat.verdicts import Verdict
from mesh.contracts.model import Callers

_WORKLOAD, _ROLE, _PEERS, _ANY = "workload ", "role ", "peers", "every workload"


def _removed(pair: Pair) -> Iterator[Found]:
    for name, old in pair.old.terms.items():
        if name not in pair.new.terms:
            verdict, known = _by_use(pair, name, "")
            yield Found(
                name,
                f"the method is gone; {known}",
                verdict,
                "keep it until nobody calls it in any region",
                pair.here(old),
            )


def _added(pair: Pair) -> Iterator[Found]:
    for name, new in pair.new.terms.items():
        if name not in pair.old.terms:
            yield Found(
                name,
                "the method is new: servers that run the old version answer UNIMPLEMENTED",
                pair.ordered(name, Verdict.SERVERS_FIRST),
                "roll out its servers in every region before its callers",
                new.location,
            )


def _lost(pair: Pair) -> Iterator[Found]:
    for old, new in pair.methods():
        name, now = new.path[1:], named(new.callers)
        for who in sorted(named(old.callers) - now):
            if who.startswith(_WORKLOAD) and _ANY in now:
                continue
            verdict, known = _by_use(pair, name, who.removeprefix(_WORKLOAD))
            yield Found(
                name,
                f"{who} may not call it any more; {known}",
                verdict,
                "let it call until no region sees it call",
                new.at("callers"),
            )


def _gained(pair: Pair) -> Iterator[Found]:
    for old, new in pair.methods():
        name, was = new.path[1:], named(old.callers)
        for who in sorted(named(new.callers) - was):
            if who.startswith(_WORKLOAD) and _ANY in was:
                continue
            yield Found(
                name,
                f"{who} may call it; servers that run the old version refuse",
                pair.ordered(name, Verdict.SERVERS_FIRST),
                "have who answers for the service approve it by an entry in the waivers",
                new.at("callers"),
                approval=True,
            )


def named(callers: Callers) -> set[str]:
    """Each kind of caller in a word or two."""
    found = {f"{_WORKLOAD}{name}" for name in callers.workloads}
    found |= {f"{_ROLE}{role.value}" for role in callers.roles}
    found |= {_PEERS} if callers.peers else set()
    return found | ({_ANY} if callers.any_workload else set())


def _by_use(pair: Pair, method: str, caller: str) -> tuple[Verdict, str]:
    uses = pair.uses.of(method, caller)
    if uses is None:
        return Verdict.BREAKING, "whether it is called is not known"
    if uses:
        said = ", ".join(f"{use.principal} in {use.region} at {use.last}" for use in uses)
        return Verdict.BREAKING, f"called last by {said}"
    return pair.ordered(method, Verdict.CALLERS_FIRST), "no region has seen a call"


RULES = (
    Rule("METHOD_REMOVED", "What is called does not go.", _removed, calls=True),
    Rule("METHOD_ADDED", "Nobody calls what no server has.", _added, calls=True),
    Rule(
        "CALLER_REMOVED",
        "Who calls is not shut out.",
        _lost,
        (
            "MethodContract.callers",
            "Callers.workloads",
            "Callers.roles",
            "Callers.peers",
            "Callers.any_workload",
        ),
        calls=True,
    ),
    Rule("CALLER_ADDED", "Access is given by those who answer for it.", _gained, calls=True),
)
