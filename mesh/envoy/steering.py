"""Where operators steer calls for now: versions, mirrors and drills in the contract's routes."""

from __future__ import annotations

from collections.abc import Iterator

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.type import v3 as types

from mesh.contracts.model import Contract, Idempotency, Locality, Method, Role
from mesh.envoy import drills
from mesh.envoy.errors import EnvoyConfigError
from mesh.envoy.target import Target
from mesh.place import EDGE
from mesh.topology import Topology
from mesh.traffic import Drill, Mirror
from mesh.traffic.read import PLATFORM

_SPLIT = (Locality.NEAREST.value, Locality.LOCAL.value)
_HUNDRED = 100


def called(
    found: route.Route, method: Method, to: Target, topology: Topology, region: str, caller: str
) -> set[Target]:
    """Steers a caller's route; returns what else it points at."""
    action, traffic = found.route, topology.traffic
    if action is None:
        return set()
    targets = set()
    versions = [v for v in traffic.versions_of(to.workload, region) if v.weight]
    if versions and to.locality in _SPLIT:
        shares = [(Target(to.workload, to.locality, version=v.name), v.weight) for v in versions]
        rest = _HUNDRED - sum(weight for _, weight in shares)
        action.cluster = None
        action.weighted_clusters = route.WeightedCluster(
            clusters=[
                route.WeightedClusterClusterWeight(name=each.cluster, weight=weight)
                for each, weight in [*shares, (to, rest)]
                if weight
            ]
        )
        targets |= {each for each, _ in shares}
    for mirror in traffic.mirrors:
        copy = _copy(mirror, method, to, topology, region)
        if copy is not None:
            action.request_mirror_policies.append(_mirrored(copy, mirror))
            targets.add(copy)
    for drill in traffic.drills:
        if caller in drill.callers and _is_of(drill, method, to.workload):
            drills.begin(found, drill)
    return targets


def served(
    found: route.Route, method: Method, workload: str, topology: Topology, region: str
) -> route.Route:
    """Steers a route of the workload's own sidecar."""
    for drill in topology.traffic.drills:
        here = not drill.callers and region in (drill.regions or (region,))
        if here and _is_of(drill, method, workload):
            drills.begin(found, drill)
    return found


def check(contract: Contract, topology: Topology) -> None:
    """Raises `EnvoyConfigError`, with a line, for settings that this contract does not allow."""
    for line, problem in _problems(contract, topology):
        raise EnvoyConfigError(f"{topology.path}:{line}: traffic: {problem}")


def _is_of(drill: Drill, method: Method, workload: str) -> bool:
    if drill.workload != workload:
        return False
    # What every workload serves (links, feeds, status) is in a drill only if it is named.
    return method.path[1:] in drill.methods if drill.methods else not _is_platform(method)


def _is_platform(method: Method) -> bool:
    return method.service.startswith(("isthmus.replication.", "isthmus.mesh."))


def _copy(
    mirror: Mirror, method: Method, to: Target, topology: Topology, region: str
) -> Target | None:
    """Where a mirror sends a call of this region to."""
    if mirror.method != method.path[1:]:
        return None
    if mirror.region:
        return (
            Target(to.workload, Locality.PINNED.value, mirror.region)
            if (mirror.region != region)
            else None
        )
    if topology.traffic.version(to.workload, region, mirror.version) is None:
        return None
    return Target(to.workload, Locality.LOCAL.value, version=mirror.version)


def _mirrored(to: Target, mirror: Mirror) -> route.RouteActionRequestMirrorPolicy:
    share = types.FractionalPercent(
        numerator=round(mirror.percent * 10_000),
        denominator=types.FractionalPercentDenominatorType.MILLION,
    )
    return route.RouteActionRequestMirrorPolicy(
        cluster=to.cluster,
        runtime_fraction=core.RuntimeFractionalPercent(default_value=share),
        trace_sampled=False,
        disable_shadow_host_suffix_append=True,
    )


def _problems(contract: Contract, topology: Topology) -> Iterator[tuple[int, str]]:
    traffic = topology.traffic
    methods = {method.path[1:]: method for method in contract.methods()}
    owners = {m: s.workload for s in contract.services.values() for m in _paths(s.methods)}
    for version in traffic.versions:
        group = contract.group_of(version.workload)
        if group is not None:
            yield (
                version.line,
                f"{version.workload} owns the group {group!r}, which has one writer in a region: "
                "another version takes its place (`isthmus local workload restart`)",
            )
    for mirror in traffic.mirrors:
        known = methods.get(mirror.method)
        if known is None:
            yield mirror.line, f"{mirror.method} is in no contract"
            continue
        owner = owners[mirror.method]
        if owner not in topology.workloads or owner in PLATFORM:
            yield mirror.line, f"{mirror.method} belongs to the mesh itself"
            continue
        if known.streaming or known.locality is Locality.PINNED:
            yield mirror.line, f"{mirror.method} is a stream, or a region is named by its callers"
        if known.idempotency is Idempotency.UNKNOWN and not mirror.effects:
            yield (
                mirror.line,
                f"{mirror.method} is not idempotent, so each mirrored call has its effects twice: "
                "mirror another method, or write `effects: true` if that is meant",
            )
        if mirror.version and not any(
            (v.workload, v.name) == (owner, mirror.version) for v in traffic.versions
        ):
            yield mirror.line, f"{owner}, which serves it, has no version {mirror.version!r}"
    taken: dict[tuple[str, str, str], str] = {}
    for drill in traffic.drills:
        served_here = {
            method.path[1:]: method
            for service in contract.served_by(drill.workload)
            for method in service.methods
        }
        for name in drill.methods:
            if name not in served_here:
                yield drill.line, f"{drill.workload} serves no {name}"
        chosen = [m for m in served_here.values() if _is_of(drill, m, drill.workload)]
        for caller in drill.callers:
            if not any(_calls(caller, method, drill.workload) for method in chosen):
                yield drill.line, f"the contract lets {caller} call none of these methods"
        places = [("from", caller) for caller in drill.callers] or [
            ("in", region) for region in drill.regions or topology.region_names
        ]
        for method in chosen:
            for place in places:
                other = taken.setdefault((method.path, *place), drill.name)
                if other != drill.name:
                    yield (
                        drill.line,
                        f"the drills {other!r} and {drill.name!r} meet at {method.path[1:]}: end "
                        "one before the other begins",
                    )


def _paths(methods: tuple[Method, ...]) -> list[str]:
    return [method.path[1:] for method in methods]


def _calls(caller: str, method: Method, callee: str) -> bool:
    who = method.callers
    if caller == EDGE:
        return bool(who.roles - {Role.UNENROLLED})
    return caller in who.workloads or who.any_workload or (who.peers and caller == callee)
