"""Makes a failing script short: Zeller and Hildebrandt, "Simplifying and Isolating
Failure-Inducing Input", 2002 (ddmin), then shorter waits."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.steps import Failure, play

MOST_TRIES = 2000


def failure(lines: list[str]) -> Failure | None:
    """What goes wrong in a script, if anything does."""
    try:
        play(lines)
    except Failure as found:
        return found
    return None


def shrink(lines: list[str], most_tries: int = MOST_TRIES) -> list[str]:
    """A script with fewer lines that still fails with the same kind of error."""
    first = failure(lines)
    if first is None:
        return lines
    kind = type(first.cause)
    tries = 0

    def fails(candidate: list[str]) -> bool:
        nonlocal tries
        tries += 1
        found = failure(candidate)
        return found is not None and type(found.cause) is kind

    head, body = lines[:1], lines[1 : first.number]
    size = max(1, len(body) // 2)
    while tries < most_tries:
        shorter = _without_pieces(body, size, lambda rest: fails([*head, *rest]))
        if len(shorter) == len(body) and size == 1:
            break
        size = max(1, min(size // 2, len(shorter) // 2))
        body = shorter
    return _calmer([*head, *body], fails)


def _without_pieces(body: list[str], size: int, fails: Callable[[list[str]], bool]) -> list[str]:
    at = len(body)
    while at > 0:
        start = max(0, at - size)
        rest = body[:start] + body[at:]
        if fails(rest):
            body = rest
        at = start
    return body


def _calmer(lines: list[str], fails: Callable[[list[str]], bool]) -> list[str]:
    """Of each wait, the shortest of some usual ones that still fails."""
    for at, line in enumerate(lines):
        if not line.startswith("wait "):
            continue
        for milliseconds in (1, 10, 100, 1000):
            shorter = [*lines[:at], f"wait {milliseconds}", *lines[at + 1 :]]
            if milliseconds < int(line.split()[1]) and fails(shorter):
                lines = shorter
                break
    return lines
