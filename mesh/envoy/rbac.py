"""Authorization: an empty, default-deny filter in each listener, policies in the routes.

A policy in the route configuration reaches live connections; one in the listener does not until
they drain. A policy's name says which line of the contract it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

from envoy_data_plane.envoy.config.rbac import v3 as rbac
from envoy_data_plane.envoy.extensions.filters.http.rbac import v3 as filter_rbac
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any

from mesh.contracts.model import Callers, Role
from mesh.envoy.text import Packed, Shared
from mesh.identity.spiffe import WorkloadId
from mesh.place import EDGE
from mesh.topology import Topology

FILTER = "envoy.filters.http.rbac"
ROLE_PATHS = {Role.OPERATOR: "operator", Role.DEVICE: "device"}


def deny_all() -> hcm.HttpFilter:
    """The filter that refuses whatever no route allows."""
    return hcm.HttpFilter(name=FILTER, typed_config=Packed(filter_rbac.Rbac(rules=rbac.Rbac())))


Names = tuple[tuple[Literal["exact", "prefix"], str], ...]
"""SPIFFE IDs, or how they begin."""


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
                principals=[_principal(kind, text) for kind, text in names],
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
    return tuple(("exact", WorkloadId(topology.trust_domain, *n).uri) for n in sorted(names))


def roles(who: Iterable[Role], topology: Topology) -> Names:
    """The end principals that an edge accepts, by the beginning of their SPIFFE ID."""
    paths = sorted(ROLE_PATHS[role] for role in who if role in ROLE_PATHS)
    return tuple(("prefix", f"spiffe://{topology.trust_domain}/{path}/") for path in paths)


def _everywhere(workload: str, topology: Topology) -> set[tuple[str, str]]:
    return {(region, workload) for region in topology.region_names}


@lru_cache(maxsize=8192)
def _principal(kind: Literal["exact", "prefix"], text: str) -> rbac.Principal:
    matched = (
        matcher.StringMatcher(exact=text) if kind == "exact" else matcher.StringMatcher(prefix=text)
    )
    return rbac.Principal(authenticated=rbac.PrincipalAuthenticated(principal_name=matched))
