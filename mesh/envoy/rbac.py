"""Authorization: an empty, default-deny filter in each listener, policies in the routes.

A policy in the route configuration reaches live connections; one in the listener does not until
they drain. A policy's name says which line of the contract it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.rbac import v3 as rbac
from envoy_data_plane.envoy.extensions.filters.http.rbac import v3 as filter_rbac
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.filters.network.rbac import v3 as network_rbac
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any

from mesh.contracts.model import Callers, Role
from mesh.envoy import jwt
from mesh.envoy.text import Packed, Shared
from mesh.identity.spiffe import WorkloadId
from mesh.place import EDGE
from mesh.topology import Topology

FILTER = "envoy.filters.http.rbac"
ROLE_PATHS = {Role.OPERATOR: "operator", Role.DEVICE: "device"}


def deny_all() -> hcm.HttpFilter:
    """The filter that refuses whatever no route allows."""
    return hcm.HttpFilter(name=FILTER, typed_config=Packed(filter_rbac.Rbac(rules=rbac.Rbac())))


def shut_out(revoked: Iterable[str]) -> list[listener.Filter]:
    """What ends connections of those who were revoked, before any request; nothing if nobody was.

    Envoy takes a changed filter chain for connections that begin now, and ends the others, with
    their streams, as soon as it has drained them.
    """
    principals = [_principal("exact", uri) for uri in sorted(revoked)]
    if not principals:
        return []
    policy = rbac.Policy(permissions=[rbac.Permission(any=True)], principals=principals)
    config = network_rbac.Rbac(
        rules=rbac.Rbac(action=rbac.RbacAction.DENY, policies={"revoked": policy}),
        stat_prefix="revoked",
    )
    return [listener.Filter(name="envoy.filters.network.rbac", typed_config=Packed(config))]


Kind = Literal["exact", "prefix", "token", "any", "not", "not-token"]
Names = tuple[tuple[Kind, str], ...]
"""SPIFFE IDs, or how they begin; a token instead of one; anybody. Less those that are not."""


def allow(name: str, names: Names) -> dict[str, Any]:
    """A route's `typed_per_filter_config`: who has one of these names and nobody else."""
    return {FILTER: _allow(name, names)}


@lru_cache(maxsize=1024)
def _allow(name: str, names: Names) -> Shared:
    # Most policies are those of the last contract, and the same in all regions.
    rules = rbac.Rbac(action=rbac.RbacAction.ALLOW)
    if names:
        rules.policies = {
            name: rbac.Policy(
                permissions=[rbac.Permission(any=True)],
                principals=_principals(names),
            )
        }
    return Shared(filter_rbac.RbacPerRoute(rbac=filter_rbac.Rbac(rules=rules)))


@lru_cache(maxsize=1024)
def callers(who: Callers, topology: Topology, region: str, callee: str) -> Names:
    """The peers that a callee's sidecar accepts, by exact SPIFFE ID.

    Roles are end principals: they come through an edge, which has checked them; here any region's
    edge is the peer.
    """
    names: set[tuple[str, str]] = set()
    for workload in sorted(who.workloads):
        names |= _everywhere(workload, topology)
    if who.any_workload:
        for workload in (*topology.workloads, EDGE):
            names |= _everywhere(workload, topology)
    if who.peers:
        names |= {(r, w) for r, w in _everywhere(callee, topology) if r != region}
    if who.roles & ROLE_PATHS.keys():
        names |= _everywhere(EDGE, topology)
    uris = (WorkloadId(topology.trust_domain, *name).uri for name in sorted(names))
    return tuple(("exact", uri) for uri in uris if uri not in topology.revoked)


def roles(who: Iterable[Role], topology: Topology) -> Names:
    """The end principals that an edge accepts.

    They are known by the beginning of their SPIFFE ID, operators by a token as well.
    """
    paths = sorted(ROLE_PATHS[role] for role in who if role in ROLE_PATHS)
    named: Names = tuple(("prefix", f"spiffe://{topology.trust_domain}/{path}/") for path in paths)
    if topology.access.jwt is not None and Role.OPERATOR in who:
        named = (*named, ("token", ""))
    return (*named, *_revoked(topology)) if named else named


ANYBODY: Names = (("any", ""),)
"""Everyone: for what only explains a refusal."""


@lru_cache(maxsize=8)
def _revoked(topology: Topology) -> Names:
    """Who came from outside once, and may no longer."""
    operators = f"spiffe://{topology.trust_domain}/operator/"
    uris = sorted(uri for uri in topology.revoked if "/workload/" not in uri)
    tokens = [uri.removeprefix(operators) for uri in uris if uri.startswith(operators)]
    by_token: Names = tuple(("not-token", name) for name in tokens if topology.access.jwt)
    return (*(("not", uri) for uri in uris), *by_token)


def _principals(names: Names) -> list[rbac.Principal]:
    """Any of those that are named, and none of those that are excluded."""
    wanted = [_principal(kind, text) for kind, text in names if not kind.startswith("not")]
    excluded = [_principal(kind, text) for kind, text in names if kind.startswith("not")]
    if not excluded:
        return wanted
    some = rbac.Principal(or_ids=rbac.PrincipalSet(ids=wanted))
    none = [rbac.Principal(not_id=each) for each in excluded]
    return [rbac.Principal(and_ids=rbac.PrincipalSet(ids=[some, *none]))]


def _everywhere(workload: str, topology: Topology) -> set[tuple[str, str]]:
    return {(region, workload) for region in topology.region_names}


@lru_cache(maxsize=8192)
def _principal(kind: Kind, text: str) -> rbac.Principal:
    match kind:
        case "any":
            return rbac.Principal(any=True)
        case "token":
            return jwt.operator()
        case "not-token":
            return jwt.subject(text)
        case "exact" | "not":
            matched = matcher.StringMatcher(exact=text)
        case "prefix":
            matched = matcher.StringMatcher(prefix=text)
    return rbac.Principal(authenticated=rbac.PrincipalAuthenticated(principal_name=matched))
