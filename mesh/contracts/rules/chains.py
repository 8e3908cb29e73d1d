"""Retries along chains of calls: each workload on the way repeats what the one before repeats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mesh.contracts.model import EVERY_WORKLOAD
from mesh.contracts.rules.rule import Problem, Rule, Subject
from mesh.contracts.schema import METHOD, MethodNode

MOST = 10
"""Attempts that one call may become at the end of a chain."""

_Edges = Mapping[str, Mapping[str, MethodNode]]


def _amplified(subject: Subject) -> Iterator[Problem]:
    edges = _edges(subject)
    for method in subject.schema.methods():
        workload = method.service.contract.workload
        if workload == EVERY_WORKLOAD or _attempts(method) < 2:
            continue
        chain = _beyond(edges, (method,), frozenset({workload}), _attempts(method))
        if chain is not None:
            said = " → ".join(f"{each.name} ({_attempts(each)})" for each in chain)
            yield Problem(
                method.source.at(METHOD),
                f"one call of {method.name} may become more than {MOST} at the end of the chain "
                f"{said}: what is slow would be called all the more",
                "leave retry out of all methods of the chain but one",
            )


def _beyond(
    edges: _Edges, chain: tuple[MethodNode, ...], passed: frozenset[str], attempts: int
) -> tuple[MethodNode, ...] | None:
    """The first chain found that multiplies to more than `MOST`; no workload is in it twice."""
    if attempts > MOST and len(chain) > 1:
        return chain
    for workload, method in edges.get(chain[-1].service.contract.workload, {}).items():
        if workload not in passed:
            longer = (*chain, method)
            here = attempts * _attempts(method)
            found = _beyond(edges, longer, passed | {workload}, here)
            if found is not None:
                return found
    return None


def _edges(subject: Subject) -> _Edges:
    """For each workload those that it may call, by the method that is tried most often.

    The contract does not say which method calls which: see TIMEOUT_BELOW_DEPENDENCY.
    """
    edges: dict[str, dict[str, MethodNode]] = {}
    for method in subject.schema.methods():
        workload = method.service.contract.workload
        if workload == EVERY_WORKLOAD:
            continue
        for caller in method.contract.callers.workloads:
            known = edges.setdefault(caller, {}).get(workload)
            if caller != workload and (known is None or _attempts(known) < _attempts(method)):
                edges[caller][workload] = method
    return edges


def _attempts(method: MethodNode) -> int:
    return max(1, method.contract.retry.attempts)


RULES = (
    Rule(
        "RETRY_AMPLIFIED",
        f"One call becomes at most {MOST} at the end of any chain.",
        _amplified,
    ),
)
