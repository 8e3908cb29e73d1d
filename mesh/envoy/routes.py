"""Routes: one exact route for each method that the contract allows on this way, and nothing else.

A deadline is `max_stream_duration` with `timeout: 0s`, the one form in which the client sees
DEADLINE_EXCEEDED; a route's `timeout` would reach it as UNAVAILABLE.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any

from mesh.contracts import exceptions
from mesh.contracts.model import EVERY_WORKLOAD, Callers, Contract, Locality, Method, Role
from mesh.envoy import browsers, clusters, jwt, limits, outside, rbac, retries, steering
from mesh.envoy.target import Target, target
from mesh.place import EDGE
from mesh.topology import Topology

WORKLOAD_HEADER = "x-isthmus-workload"
HOME_HEADER = "x-isthmus-home"
DEFAULT_WORKLOAD = "overview"
METRICS_PATH = "/metrics"
METRICS_POLICY = "metrics"
GRACE = timedelta(seconds=1)
"""How much longer a callee's sidecar waits, so that the caller's own answer comes first."""
_LONGEST = timedelta(hours=1)
_NO_LIMIT = timedelta(0)
_PAGE = timedelta(seconds=5)


@dataclass(frozen=True)
class Routes:
    """A route table, and the targets that it points at."""

    hosts: list[route.VirtualHost]
    targets: frozenset[Target]

    def configuration(self, name: str) -> route.RouteConfiguration:
        """The table as a resource; a route to an unknown cluster is refused at start."""
        return route.RouteConfiguration(name=name, virtual_hosts=self.hosts, validate_clusters=True)


def inbound(contract: Contract, topology: Topology, region: str, workload: str) -> Routes:
    """What a workload's sidecar takes from others: each method that it serves, for its callers."""
    routes = [
        steering.served(
            _route(
                _exact(method.path),
                _forward(clusters.APP, _limit(method) + GRACE, retries.to_app(method)),
                rbac.allow(
                    method.path[1:], rbac.callers(method.callers, topology, region, workload)
                )
                | limits.of(method),
            ),
            method,
            workload,
            topology,
            region,
        )
        for method in served(contract, workload)
        if method.callers.roles != {Role.UNENROLLED}
    ]
    for path, who in exceptions.served_by(workload).items():
        principals = rbac.callers(who, topology, region, workload)
        routes.append(
            _route(
                _exact(path),
                _forward(clusters.APP, _LONGEST + GRACE),
                rbac.allow(path[1:], principals),
            )
        )
    page = rbac.callers(exceptions.METRICS.callers, topology, region, workload)
    routes.append(
        _route(_exact(METRICS_PATH), _page(clusters.METRICS), rbac.allow(METRICS_POLICY, page))
    )
    return Routes([_host("inbound", ["*"], routes)], frozenset())


def enrolment(contract: Contract, workload: str) -> Routes | None:
    """The methods that are called without a client certificate; None if there is none."""
    methods = [m for m in served(contract, workload) if Role.UNENROLLED in m.callers.roles]
    if not methods:
        return None
    routes = [_route(_exact(m.path), _forward(clusters.APP, _limit(m) + GRACE)) for m in methods]
    return Routes(
        [_host("enrolment", ["*"], [*routes, _refuse("this listener is for enrolment alone")])],
        frozenset(),
    )


def egress(contract: Contract, topology: Topology, region: str, workload: str) -> Routes:
    """What a workload may call: one virtual host for each callee, or callee and region."""
    hosts: dict[str, list[route.Route]] = {}
    targets: set[Target] = set()
    for callee in topology.workloads:
        for method in served(contract, callee):
            for authority, match, to in _callees(method, callee, topology, region, workload):
                found = _route(match, _forward(to.cluster, _limit(method), retries.of(method)))
                targets |= {to} | steering.called(found, method, to, topology, region, workload)
                hosts.setdefault(authority, []).append(found)
    refused = f"the contract does not let workload {workload} call this"
    tables = [
        _host(authority, [authority], [*routes, _refuse(refused)], retrying=True)
        for authority, routes in hosts.items()
    ]
    tables.append(_host("refused", ["*"], [_refuse(refused)]))
    return Routes(tables, frozenset(targets))


def edge(contract: Contract, topology: Topology, region: str) -> Routes:
    """What end principals may call, by their roles."""
    strangers = "mesh.yaml does not name this page's origin in edge.origins"
    routes = [
        _refuse(
            strangers,
            browsers.strange(topology.access),
            # Said at once: nobody holds an edge with a request that it refuses anyway.
            rbac.allow("origins", rbac.ANYBODY) | outside.unheld(),
        )
    ]
    targets: set[Target] = set()

    def add(
        path: str,
        match: route.RouteMatch,
        to: Target,
        who: Callers,
        limit: timedelta,
        body: dict[str, Any],
        retry: route.RetryPolicy | None = None,
    ) -> None:
        policy = rbac.allow(path[1:], rbac.roles(who.roles, topology)) | body
        routes.append(_route(match, _forward(to.cluster, limit, retry), policy))
        targets.add(to)

    anywhere: list[tuple[str, Callers, timedelta, Sequence[str], dict[str, Any]]] = [
        (path, who, _LONGEST, topology.workloads, outside.unheld())
        for path, who in exceptions.CALLERS_BY_PATH.items()
    ]
    for service in contract.services.values():
        for method in service.methods:
            if not method.callers.roles & rbac.ROLE_PATHS.keys():
                continue
            if service.workload == EVERY_WORKLOAD:
                owners = [
                    workload
                    for workload in topology.workloads
                    if service in contract.served_by(workload)
                ]
                body = outside.body_of(method)
                anywhere.append((method.path, method.callers, _limit(method), owners, body))
            elif service.workload in topology.workloads:
                for match, to in _ways(method, service.workload, topology):
                    limit, body = _limit(method), outside.body_of(method)
                    add(method.path, match, to, method.callers, limit, body, retries.of(method))
                    targets |= steering.called(routes[-1], method, to, topology, region, EDGE)
    for path, who, limit, serving, body in anywhere:
        for workload in serving:
            add(path, _exact(path, workload), target(workload, Locality.LOCAL), who, limit, body)
        if DEFAULT_WORKLOAD in serving:
            # Only without the header: a header that names no workload of ours is refused.
            to = target(DEFAULT_WORKLOAD, Locality.LOCAL)
            add(path, _exact(path, absent=True), to, who, limit, body)
        asked = f"say in the header {WORKLOAD_HEADER} which workload is asked: {', '.join(serving)}"
        allowed = rbac.allow(path[1:], rbac.roles(who.roles, topology))
        routes.append(_refuse(asked, _exact(path), allowed | outside.unheld()))
    page = exceptions.METRICS
    for workload in topology.workloads:
        to = target(workload, Locality.LOCAL)
        targets.add(to)
        routes.append(
            _route(
                _exact(f"{page.prefix}{workload}"),
                _page(to.cluster, rewrite=METRICS_PATH),
                rbac.allow(METRICS_POLICY, rbac.roles(page.callers.roles, topology))
                | outside.unheld(),
            )
        )
    host = _host("edge", ["*"], routes, retrying=True)
    host.typed_per_filter_config = browsers.policy(topology.access)
    host.request_headers_to_add = jwt.identity(topology)
    return Routes([host], frozenset(targets))


def served(contract: Contract, workload: str) -> Iterator[Method]:
    """Every method that a workload serves."""
    for service in contract.served_by(workload):
        yield from service.methods


def may_call(method: Method, callee: str, caller: str) -> bool:
    """Whether the contract lets workload `caller` call this method of `callee`, in some region."""
    who = method.callers
    return caller in who.workloads or who.any_workload or (who.peers and caller == callee)


def _callees(
    method: Method, callee: str, topology: Topology, region: str, caller: str
) -> Iterator[tuple[str, route.RouteMatch, Target]]:
    """The ways from a caller to a method: under which authority, and to where."""
    if not may_call(method, callee, caller):
        return
    if method.locality is not Locality.PINNED:
        for match, to in _ways(method, callee, topology):
            yield callee, match, to
        return
    named = caller in method.callers.workloads or method.callers.any_workload
    for other in topology.region_names:
        if named or other != region:
            to = target(callee, method.locality, other)
            yield f"{callee}.{other}", _exact(method.path), to


def _ways(
    method: Method, callee: str, topology: Topology
) -> Iterator[tuple[route.RouteMatch, Target]]:
    if method.locality is not Locality.HOME:
        yield _exact(method.path), target(callee, method.locality)
        return
    # A client that was told the home names it; the others ask their own region, which knows it.
    for region in topology.region_names:
        match = _exact(method.path, region, header=HOME_HEADER)
        yield match, target(callee, Locality.PINNED, region)
    yield _exact(method.path), target(callee, Locality.LOCAL)


def _limit(method: Method) -> timedelta:
    seconds = method.stream_max_age if method.streaming else method.timeout
    return _LONGEST if seconds is None else timedelta(seconds=seconds)


def _forward(
    cluster: str, longest: timedelta, retry: route.RetryPolicy | None = None
) -> route.RouteAction:
    return route.RouteAction(
        cluster=cluster,
        timeout=_NO_LIMIT,
        idle_timeout=_NO_LIMIT,
        max_stream_duration=route.RouteActionMaxStreamDuration(
            max_stream_duration=longest, grpc_timeout_header_max=longest
        ),
        retry_policy=retry,
    )


def _page(cluster: str, rewrite: str = "") -> route.RouteAction:
    return route.RouteAction(
        cluster=cluster,
        timeout=_PAGE,
        # The other one counts from the end of the request, which may never come.
        max_stream_duration=route.RouteActionMaxStreamDuration(max_stream_duration=_PAGE),
        prefix_rewrite=rewrite,
    )


def _exact(
    path: str, value: str = "", *, header: str = WORKLOAD_HEADER, absent: bool = False
) -> route.RouteMatch:
    match = route.RouteMatch(path=path)
    if value:
        match.headers = [
            route.HeaderMatcher(name=header, string_match=matcher.StringMatcher(exact=value))
        ]
    elif absent:
        match.headers = [route.HeaderMatcher(name=WORKLOAD_HEADER, present_match=False)]
    return match


def _route(
    match: route.RouteMatch, action: route.RouteAction, policy: dict[str, Any] | None = None
) -> route.Route:
    return route.Route(match=match, route=action, typed_per_filter_config=policy or {})


def _refuse(
    why: str, match: route.RouteMatch | None = None, policy: dict[str, Any] | None = None
) -> route.Route:
    """403, which Envoy gives a gRPC client as PERMISSION_DENIED with this text."""
    return route.Route(
        match=match or route.RouteMatch(prefix="/"),
        direct_response=route.DirectResponseAction(
            status=403, body=core.DataSource(inline_string=why)
        ),
        typed_per_filter_config=policy or {},
    )


def _host(
    name: str, domains: Iterable[str], routes: list[route.Route], *, retrying: bool = False
) -> route.VirtualHost:
    # Who gets a second attempt must be able to tell: the first may have arrived elsewhere.
    return route.VirtualHost(
        name=name,
        domains=list(domains),
        routes=routes,
        include_request_attempt_count=retrying,
    )
