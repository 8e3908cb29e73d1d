"""What a rule is: an identifier, its purpose, a handler and the options it answers for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mesh.compat.pair import Pair
from mesh.compat.verdicts import Verdict
from mesh.contracts.model import Location


@dataclass(frozen=True)
class Found:
    """What a rule found. `subject` is the full name of what changed; `remedy` says how to mend it.

    With `approval` somebody has to agree, whatever the verdict.
    """

    subject: str
    what: str
    verdict: Verdict
    remedy: str
    location: Location
    approval: bool = False


@dataclass(frozen=True)
class Rule:
    """One rule.

    `options` are the options (``Message.field`` of options.proto, or a standard one's name) whose
    changes it judges. What a rule with `calls` finds is nothing to stored messages.
    """

    id: str
    purpose: str
    check: Callable[[Pair], Iterator[Found]]
    options: tuple[str, ...] = ()
    calls: bool = False
