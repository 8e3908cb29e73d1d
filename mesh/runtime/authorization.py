"""Whether a principal may call a method: the contract's answer, and where it stands.

The sidecars enforce the same before a call arrives. This is the last of three checks, so that an
application is never more open than its sidecar, however that was configured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.contracts import Contract, exceptions
from mesh.contracts.model import Callers, Consistency, Durability
from mesh.runtime.errors import PermissionDenied
from mesh.runtime.principal import Principal


@dataclass(frozen=True)
class Rule:
    """What the contract says of one method (by its HTTP/2 path), and where.

    Who may call it, how long an attempt may take (seconds; None: a stream), and what it promises
    of the group's data. If it belongs in the home of an `entity`, the request's field `key` names
    one.
    """

    path: str
    callers: Callers
    location: str
    timeout: float | None = None
    consistency: Consistency = Consistency.EVENTUAL
    durability: Durability = Durability.REGION
    entity: str = ""
    key: str = ""


def rules(contract: Contract, workload: str) -> Mapping[str, Rule]:
    """The rule of each method that instances of a workload serve, by its path."""
    declared = {
        method.path: Rule(
            method.path,
            method.callers,
            str(method.location),
            # A sidecar that tries again does not wait for longer.
            method.retry.per_try if method.retry else method.timeout,
            method.consistency,
            method.durability,
            method.entity,
            method.key,
        )
        for service in contract.served_by(workload)
        for method in service.methods
    }
    excepted = {
        path: Rule(path, callers, exceptions.__name__)
        for path, callers in exceptions.served_by(workload).items()
    }
    return declared | excepted


def permits(callers: Callers, principal: Principal, workload: str, region: str) -> bool:
    """Whether `callers` of a method served by `workload` in `region` include the principal."""
    if principal.kind != "workload":
        return any(role.value == principal.kind for role in callers.roles)
    if callers.any_workload or principal.name in callers.workloads:
        return True
    return callers.peers and principal.name == workload and principal.region != region


def authorize(rule: Rule, principal: Principal, workload: str, region: str) -> None:
    """Raises `PermissionDenied`, naming the place in the contract that decides."""
    if permits(rule.callers, principal, workload, region):
        return
    method = rule.path[1:]
    raise PermissionDenied(
        f"{principal} is not in the contract of {method} ({rule.location}):"
        " add it to `callers` there if it should be",
        reason="CALLER_NOT_IN_CONTRACT",
        metadata={"method": method, "location": rule.location, "principal": str(principal)},
    )
