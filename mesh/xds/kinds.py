"""The types of resources that sidecars ask for, and the order in which changes go out.

A change is made before it is broken: what is pointed at goes ahead of what points at it, and what
is no longer pointed at goes last, the other way round (the xDS protocol, "Eventual consistency
considerations").
"""

from __future__ import annotations

_PREFIX = "type.googleapis.com/envoy."
CLUSTER = _PREFIX + "config.cluster.v3.Cluster"
ENDPOINTS = _PREFIX + "config.endpoint.v3.ClusterLoadAssignment"
SECRET = _PREFIX + "extensions.transport_sockets.tls.v3.Secret"
LISTENER = _PREFIX + "config.listener.v3.Listener"
ROUTES = _PREFIX + "config.route.v3.RouteConfiguration"

ORDER = (CLUSTER, ENDPOINTS, SECRET, LISTENER, ROUTES)
ROOTS = (CLUSTER, LISTENER)
"""What a client may ask for without names: all of them. The others are named by these."""


def short(type_url: str) -> str:
    """A type's name without its package, for people."""
    return type_url.rpartition(".")[2]
