"""How a call is carried: deadlines, retries, limits, and what a method promises."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from math import inf

from mesh.compat.pair import Pair, Side
from mesh.compat.rules.rule import Found, Rule
from mesh.compat.verdicts import Verdict
from mesh.contracts.model import (
    EVERY_WORKLOAD,
    Consistency,
    Durability,
    Idempotency,
    Locality,
    Method,
)

_LEVELS = (Idempotency.UNKNOWN, Idempotency.IDEMPOTENT, Idempotency.NO_SIDE_EFFECTS)
_DURABILITIES = (Durability.REGION, Durability.ONE_PEER, Durability.MAJORITY)
_CALLERS, _SERVERS = Verdict.CALLERS_FIRST, Verdict.SERVERS_FIRST


def _found(pair: Pair, new: Method, option: str, what: str, verdict: Verdict, remedy: str) -> Found:
    name = new.path[1:]
    return Found(name, what, pair.ordered(name, verdict), remedy, new.at(option))


def _timeout(pair: Pair) -> Iterator[Found]:
    for old, new in pair.methods():
        was, now = _limit(old.timeout), _limit(new.timeout)
        if now < was:
            yield _found(
                pair,
                new,
                "timeout",
                f"timeout is {_seconds(now)}, was {_seconds(was)}: slower answers are lost",
                _SERVERS,
                "have servers in every region answer in time first",
            )
        elif now > was:
            yield _found(
                pair,
                new,
                "timeout",
                f"timeout is {_seconds(now)}, was {_seconds(was)}: callers may wait longer",
                Verdict.SAFE,
                "nothing to do",
            )


def _stream_age(pair: Pair) -> Iterator[Found]:
    for old, new in pair.methods():
        was, now = _limit(old.stream_max_age), _limit(new.stream_max_age)
        if now != was:
            verdict = _CALLERS if now < was else Verdict.SAFE
            what = f"stream_max_age is {_seconds(now)}, was {_seconds(was)}"
            remedy = "have callers renew their streams before that" if now < was else "nothing"
            yield _found(pair, new, "stream_max_age", what, verdict, remedy)


def _inverted(pair: Pair) -> Iterator[Found]:
    """A method of one version that waits for less than a dependency of the other may take."""
    sound = _waits(pair.old, pair.old) | _waits(pair.new, pair.new)
    for outer, inner, verdict, who in (
        (pair.old, pair.new, _CALLERS, "callers"),
        (pair.new, pair.old, _SERVERS, "dependencies"),
    ):
        for method, dependency in sorted(_waits(outer, inner) - sound):
            if method not in pair.new.terms:
                continue
            caller, callee = outer.terms[method], inner.terms[dependency]
            yield Found(
                method,
                f"waits {_seconds(_limit(caller.timeout))} in one version, and {dependency} takes "
                f"up to {_seconds(_limit(callee.timeout))} in the other",
                pair.ordered(method, verdict),
                f"roll out the {who} in every region first",
                pair.new.terms[method].at("timeout"),
            )


def _waits(outer: Side, inner: Side) -> set[tuple[str, str]]:
    """Methods that wait for less than what their workload may call."""
    found = set()
    for method, terms in outer.terms.items():
        workload = outer.methods[method].service.contract.workload
        if terms.timeout is None or terms.streaming or workload == EVERY_WORKLOAD:
            continue
        for dependency, called in inner.terms.items():
            served_by = inner.methods[dependency].service.contract.workload
            if (
                called.timeout is not None
                and not called.streaming
                and workload in called.callers.workloads
                and served_by not in (workload, EVERY_WORKLOAD)
                and terms.timeout < called.timeout
            ):
                found.add((method, dependency))
    return found


def _retry(pair: Pair) -> Iterator[Found]:
    for old, new in pair.methods():
        was, now = old.retry, new.retry
        if was == now:
            continue
        fewer = now is None or (was is not None and now.attempts < was.attempts)
        more = now is not None and (was is None or now.attempts > was.attempts)
        shorter = now is not None and now.per_try < (was.per_try if was else _limit(old.timeout))
        # More attempts, or shorter ones, need servers that bear them; fewer, callers that do.
        if fewer and shorter:
            verdict = Verdict.BREAKING
        else:
            verdict = _SERVERS if more or shorter else _CALLERS if fewer else Verdict.SAFE
        said = f"{now.attempts} attempts of {now.per_try:g} s" if now else "none"
        before = f"{was.attempts} attempts of {was.per_try:g} s" if was else "none"
        yield _found(
            pair,
            new,
            "retry",
            f"retry is {said}, was {before}",
            verdict,
            "change attempts and per_try one after the other"
            if verdict is Verdict.BREAKING
            else "have servers in every region bear repeated and shorter attempts first"
            if verdict is _SERVERS
            else "have callers bear the failures that were repeated before",
        )


def _idempotency(pair: Pair) -> Iterator[Found]:
    for old, new in pair.methods():
        if old.idempotency is new.idempotency:
            continue
        weaker = _LEVELS.index(new.idempotency) < _LEVELS.index(old.idempotency)
        yield _found(
            pair,
            new,
            "idempotency_level",
            f"idempotency_level is {new.idempotency.value}, was {old.idempotency.value}",
            Verdict.BREAKING if weaker else _SERVERS,
            "add a method beside it: old callers go on to repeat this one"
            if weaker
            else "have servers in every region keep to it before anyone repeats a call",
        )


def _rate(pair: Pair) -> Iterator[Found]:
    for old, new in pair.methods():
        was, now = old.rate_limit, new.rate_limit
        if was == now:
            continue
        tighter = now is not None and (
            was is None or now.per_second < was.per_second or now.burst < was.burst
        )
        said = f"{now.per_second}/s, {now.burst} at once" if now else "none"
        before = f"{was.per_second}/s, {was.burst} at once" if was else "none"
        yield _found(
            pair,
            new,
            "rate_limit",
            f"rate_limit is {said}, was {before}",
            _CALLERS if tighter else Verdict.SAFE,
            "have callers call less often first" if tighter else "nothing to do",
        )


def _locality(pair: Pair) -> Iterator[Found]:
    for old, new in pair.methods():
        was, now = old.locality, new.locality
        if was is now:
            continue
        if Locality.PINNED in (was, now):
            verdict, remedy = Verdict.BREAKING, "add a method: who names a region calls otherwise"
        elif now is Locality.HOME or (was is Locality.NEAREST and now is Locality.LOCAL):
            verdict, remedy = _CALLERS, "have callers bear a region's refusal first"
        else:
            verdict, remedy = _SERVERS, "have every region serve calls from others first"
        leaves = was is Locality.LOCAL
        name = new.path[1:]
        yield Found(
            name,
            f"locality is {now.value}, was {was.value}"
            + (": calls may leave their region" if leaves else ""),
            pair.ordered(name, verdict),
            remedy,
            new.at("locality"),
            approval=leaves,
        )


def _consistency(pair: Pair) -> Iterator[Found]:
    for old, new in pair.methods():
        yield from _promise(pair, old, new, "consistency", tuple(Consistency))


def _durability(pair: Pair) -> Iterator[Found]:
    for old, new in pair.methods():
        yield from _promise(pair, old, new, "durability", _DURABILITIES)


def _promise(
    pair: Pair, old: Method, new: Method, option: str, scale: tuple[Enum, ...]
) -> Iterator[Found]:
    was, now = getattr(old, option), getattr(new, option)
    if was is now:
        return
    weaker = scale.index(now) < scale.index(was)
    name = new.path[1:]
    yield Found(
        name,
        f"{option} is {now.value}, was {was.value}",
        pair.ordered(name, _CALLERS if weaker else _SERVERS),
        "have callers do without that promise first"
        if weaker
        else "have every region promise it before a caller relies on it",
        new.at(option),
        approval=weaker,
    )


def _limit(value: float | None) -> float:
    return inf if value is None else value


def _seconds(value: float) -> str:
    return "none" if value == inf else f"{value:g} s"


RULES = (
    Rule(
        "TIMEOUT_CHANGED",
        "Nobody waits for less than servers take.",
        _timeout,
        ("MethodContract.timeout",),
        calls=True,
    ),
    Rule(
        "STREAM_AGE_CHANGED",
        "No stream ends before its client renews it.",
        _stream_age,
        ("MethodContract.stream_max_age",),
        calls=True,
    ),
    Rule(
        "BUDGET_INVERTED",
        "A method waits at least as long as what it calls, in any mixture of versions.",
        _inverted,
        calls=True,
    ),
    Rule(
        "RETRY_CHANGED",
        "What is repeated bears it.",
        _retry,
        ("MethodContract.retry", "Retry.attempts", "Retry.per_try"),
        calls=True,
    ),
    Rule(
        "IDEMPOTENCY_CHANGED",
        "What somebody repeats stays repeatable.",
        _idempotency,
        ("idempotency_level",),
        calls=True,
    ),
    Rule(
        "RATE_LIMIT_CHANGED",
        "Callers know how often they may call.",
        _rate,
        ("MethodContract.rate_limit", "RateLimit.per_second", "RateLimit.burst"),
        calls=True,
    ),
    Rule(
        "LOCALITY_CHANGED",
        "A call goes where callers and servers expect it.",
        _locality,
        ("MethodContract.locality",),
        calls=True,
    ),
    Rule(
        "CONSISTENCY_CHANGED",
        "What readers were promised is kept.",
        _consistency,
        ("MethodContract.consistency",),
        calls=True,
    ),
    Rule(
        "DURABILITY_CHANGED",
        "What writers were promised is kept.",
        _durability,
        ("MethodContract.durability",),
        calls=True,
    ),
)
