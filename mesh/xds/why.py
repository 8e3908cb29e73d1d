"""Whether a caller may call a method, by which rule, and on which line it stands. Pure.

The answer comes from the same contract as the sidecars' policies do; that these do what it says is
shown by tests that try each caller with each method on real ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mesh.contracts import exceptions
from mesh.contracts.model import EVERY_WORKLOAD, Callers, Contract, Method, Role
from mesh.place import EDGE
from mesh.topology import Topology

EACH = "each callee"
"""Who serves what every workload serves."""


class Unclear(Exception):
    """The caller or the method that was named is none, or could be several."""


@dataclass(frozen=True)
class Caller:
    """A workload by its name, or an end principal by its role (`name` is empty then)."""

    name: str = ""
    role: Role | None = None

    def __str__(self) -> str:
        return f"role `{self.role.value}`" if self.role else f"workload `{self.name}`"


@dataclass(frozen=True)
class Verdict:
    """`because` says which rule decides, `location` where it stands: file and line, or a module.

    `through` are the hops at which it is enforced, the first one first.
    """

    caller: str
    method: str
    allowed: bool
    because: str
    location: str
    through: tuple[str, ...]


def caller_of(text: str, topology: Topology) -> Caller:
    """`overview`; `operator` or `operator/ann`; a SPIFFE ID. Raises `Unclear`."""
    kind, _, name = text.removeprefix(f"spiffe://{topology.trust_domain}/").partition("/")
    if kind == "region" and "/workload/" in name:
        kind, name = name.rpartition("/")[2], ""
    for role in Role:
        if kind == role.value and kind not in topology.workloads:
            return Caller(role=role)
    if kind in (*topology.workloads, EDGE) and not name:
        return Caller(kind)
    raise Unclear(
        f"{text!r} is no caller: name a workload ({', '.join(topology.workloads)}), "
        f"a role ({', '.join(role.value for role in Role)}), or a SPIFFE ID of "
        f"{topology.trust_domain}"
    )


def method_of(text: str, contract: Contract) -> Method | str:
    """A method by its path, or as much of its end as is unique; the path of an excepted one.

    Raises `Unclear`.
    """
    wanted = text.removeprefix("/")
    paths = [path for each in exceptions.CALLS for path in each.paths]
    excepted = [path for path in paths if _ends_with(path[1:], wanted)]
    declared = [method for method in contract.methods() if _ends_with(method.path[1:], wanted)]
    found: list[Method | str] = [*declared, *excepted]
    exact = [each for each in found if _path(each)[1:] == wanted]
    found = exact or found
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(sorted(_path(each)[1:] for each in found))
        raise Unclear(f"{text!r} could be one of {names}: say more of its name")
    near = sorted(m.path[1:] for m in contract.methods() if wanted.lower() in m.path.lower())
    hint = f": did you mean {', '.join(near[:5])}?" if near else ""
    raise Unclear(f"the contract has no method {text!r}{hint}")


def why(contract: Contract, caller: Caller, method: Method | str) -> Verdict:
    """The contract's verdict."""
    if isinstance(method, str):
        service = method[1:].partition("/")[0]
        found = next(each for each in exceptions.CALLS if each.service == service)
        callers, location = found.callers, exceptions.__name__
        note = f", an exception to the contract: {found.reason}"
        callee = EACH if found.workload == EVERY_WORKLOAD else found.workload
    else:
        callers, location, note = method.callers, str(method.at("callers")), ""
        workload = contract.services[method.service].workload
        callee = EACH if workload == EVERY_WORKLOAD else workload
    rule = next(_allowing(callers, caller, callee), None)
    listed = ", ".join(_listed(callers)) or "nobody"
    return Verdict(
        str(caller),
        _path(method)[1:],
        rule is not None,
        f"{rule}{note}" if rule else f"its `callers` are {listed}{note}",
        location,
        tuple(_hops(caller, callee)),
    )


def _allowing(callers: Callers, caller: Caller, callee: str) -> Iterator[str]:
    if caller.role is not None:
        if caller.role in callers.roles:
            yield f"`callers.roles` lists {caller.role.value}"
        return
    if caller.name in callers.workloads:
        yield f"`callers.workloads` lists {caller.name}"
    if callers.any_workload:
        yield "`callers.any_workload` is set"
    if callers.peers and callee in (caller.name, EACH):
        yield "`callers.peers` is set: from other regions than the callee's"
    if caller.name == EDGE and callers.roles - {Role.UNENROLLED}:
        yield "an edge passes on the calls of the roles that `callers.roles` lists"


def _listed(callers: Callers) -> Iterator[str]:
    yield from sorted(callers.workloads)
    yield from sorted(f"role {role.value}" for role in callers.roles)
    if callers.peers:
        yield "its peers"


def _hops(caller: Caller, callee: str) -> Iterator[str]:
    if caller.role is Role.UNENROLLED:
        yield f"the enrolment listener of {callee}'s sidecar"
    elif caller.role is not None:
        yield "the edge's policy for the route, by the client's certificate"
    else:
        yield "the routes of its own sidecar"
    if caller.role is not Role.UNENROLLED:
        yield f"the policy for the route in the sidecar of {callee}, by the peer's certificate"
    yield f"the runtime of {callee}"


def _ends_with(path: str, wanted: str) -> bool:
    return path == wanted or path.endswith((f"/{wanted}", f".{wanted}"))


def _path(method: Method | str) -> str:
    return method if isinstance(method, str) else method.path
