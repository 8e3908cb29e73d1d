"""What an Envoy says it runs, and what was compiled for it, in one form: equal says equal. Pure.

The form is JSON whose durations are numbers of seconds, and numbers spelt in one way. Sidecars that
start from files run the same resources as those that discover them, but for paths and for where
routes and endpoints stand; their dumps are brought into the form of what is discovered
(`mesh.envoy.discovery`).

Endpoints are compared by address, locality, priority, weight and metadata: Envoy shows them with
the health that it found. What still warms up is not in use, so what it will replace is compared.
Not compared are secrets: they come from files of their own, and are none of the contract's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import betterproto2
from envoy_data_plane.envoy.config.bootstrap import v3 as bootstrap
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.google import protobuf

from mesh.envoy import clusters, hold
from mesh.envoy.bootstrap import BOOTSTRAP as BOOTSTRAP_FILE
from mesh.envoy.discovery import FOR_EVER, STATE, from_ads
from mesh.envoy.text import text, type_url
from mesh.place import Place

CONFIG_PAGE = "/config_dump?include_eds"
RUNTIME_PAGE = "/runtime?format=json"
"""The admin interface's pages of what is read here."""

CLUSTER = type_url(cluster.Cluster)
ENDPOINTS = type_url(endpoint.ClusterLoadAssignment)
LISTENER = type_url(listener.Listener)
ROUTES = type_url(route.RouteConfiguration)
BOOTSTRAP = type_url(bootstrap.Bootstrap)
RUNTIME = "envoy.runtime"
"""The type, among these, of a runtime value that was set through the admin interface."""

_SECONDS = re.compile(r"-?\d+(\.\d+)?s")
_LONG = re.compile(r"-?[1-9]\d{0,18}|0")
"""How JSON spells integers of 64 bits."""
_STARTED_FROM = (
    "admin",
    "dynamic_resources",
    "layered_runtime",
    "overload_manager",
    "static_resources",
)
"""What of a bootstrap is compared: Envoy adds to the node what it is itself."""
_OWN_HOST = frozenset({clusters.APP, clusters.METRICS, clusters.COLLECTOR, clusters.CONTROL_PLANE})


@dataclass(frozen=True)
class Running:
    """One resource in the form that is compared."""

    type_url: str
    name: str
    value: Any

    @cached_property
    def text(self) -> str:
        """Canonical JSON."""
        return json.dumps(self.value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.text.encode()).digest()


@dataclass(frozen=True)
class Dumped:
    """A resource as a configuration dump has it, durations aside; `version` is its server's."""

    type_url: str
    name: str
    version: str
    value: Any
    discovered: bool


def compiled(name: str, message: betterproto2.Message) -> Running:
    """A resource as the compiler made it."""
    kind, value = type_url(type(message)), plain(json.loads(text(message)))
    return Running(kind, name, _endpoints(value) if kind == ENDPOINTS else value)


def served(kind: str, name: str, message: bytes) -> Running:
    """The same of the bytes that a control plane serves; some ten times as slow.

    Raises TypeError for a type that is unknown, and betterproto2's errors for bytes that are none.
    """
    found = protobuf.Any(type_url=kind, value=message).unpack()
    if found is None:
        raise TypeError(f"resource {name} has no type")
    return compiled(name, found)


def started_from(bootstrap_text: str) -> Running:
    """What a discovering Envoy is started from: its `Configuration.bootstrap`."""
    return _bootstrap(json.loads(bootstrap_text))


def _bootstrap(value: Mapping[str, Any]) -> Running:
    compared = {name: value[name] for name in _STARTED_FROM if name in value}
    return Running(BOOTSTRAP, BOOTSTRAP_FILE, plain(compared))


def running(dump: Mapping[str, Any], runtime: Mapping[str, Any], place: Place) -> list[Running]:
    """All that an Envoy runs, of its two pages as JSON has them."""
    found: dict[tuple[str, str], Running] = {}
    for each in dumped(dump):
        for kind, name, value in _parts(each, place):
            found[kind, name] = Running(kind, name, value)
    for config in dump["configs"]:
        # One without is started from files: all of it is above.
        if "dynamic_resources" in config.get("bootstrap", {}):
            found[BOOTSTRAP, BOOTSTRAP_FILE] = _bootstrap(config["bootstrap"])
    for name, value in _overrides(runtime):
        found[RUNTIME, name] = Running(RUNTIME, name, value)
    return [found[key] for key in sorted(found)]


def dumped(dump: Mapping[str, Any]) -> Iterator[Dumped]:
    """The clusters, endpoints, listeners and routes of a dump that are in use."""
    for config in dump["configs"]:
        for entry in config.get("static_clusters", []):
            yield _dumped(entry, "cluster", discovered=False)
        for entry in config.get("dynamic_active_clusters", []):
            yield _dumped(entry, "cluster")
        for kind in ("static_endpoint_configs", "dynamic_endpoint_configs"):
            for entry in config.get(kind, []):
                yield _dumped(entry, "endpoint_config", discovered=kind.startswith("dynamic"))
        for entry in config.get("static_listeners", []):
            yield _dumped(entry, "listener", discovered=False)
        for entry in config.get("dynamic_listeners", []):
            if "active_state" in entry:
                yield _dumped(entry["active_state"], "listener")
        for entry in config.get("dynamic_route_configs", []):
            yield _dumped(entry, "route_config")


def plain(value: Any) -> Any:
    """JSON with durations as numbers of seconds, and one spelling of whole numbers."""
    match value:
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list():
            return [plain(item) for item in value]
        case str() if _SECONDS.fullmatch(value):
            return plain(float(value[:-1]))
        case str() if _LONG.fullmatch(value):
            return int(value)
        case float() if value.is_integer():
            return int(value)
    return value


def _dumped(entry: Mapping[str, Any], of: str, *, discovered: bool = True) -> Dumped:
    value = plain({key: item for key, item in entry[of].items() if key != "@type"})
    name = value.get("name") or value.get("cluster_name", "")
    return Dumped(entry[of]["@type"], name, entry.get("version_info", ""), value, discovered)


def _parts(each: Dumped, place: Place) -> Iterator[tuple[str, str, Any]]:
    """A resource of a dump, and what a static one holds that is discovered by itself."""
    if each.type_url == ENDPOINTS:
        if each.name not in _OWN_HOST:
            yield ENDPOINTS, each.name, _endpoints(each.value)
        return
    if each.discovered:
        yield each.type_url, each.name, each.value
        return
    if each.name == clusters.CONTROL_PLANE:
        return  # how its control plane is reached stands in the bootstrap
    value = _relative(each.value, place)
    if each.type_url == CLUSTER and each.name not in _OWN_HOST:
        if value.pop("load_assignment", None) is not None and value.get("type") == "STATIC":
            value["type"] = "EDS"
            value["eds_cluster_config"] = {"eds_config": _FROM_ADS}
    elif each.type_url == LISTENER:
        manager = value["filter_chains"][0]["filters"][-1]["typed_config"]
        table = manager.pop("route_config", None)
        if table is not None:
            manager["rds"] = {
                "config_source": _FROM_ADS_FOR_EVER,
                "route_config_name": table["name"],
            }
            yield ROUTES, table["name"], table
    yield each.type_url, each.name, value


def _relative(value: Any, place: Place) -> Any:
    """With paths as they are seen from the folder that discovering Envoys run in."""
    match value:
        case dict():
            return {key: _relative(item, place) for key, item in value.items()}
        case list():
            return [_relative(item, place) for item in value]
        case str():
            for folder, name in ((f"{place.run}/", ""), (f"{place.state}/", f"{STATE}/")):
                if value.startswith(folder):
                    return name + value.removeprefix(folder)
    return value


def _endpoints(value: Mapping[str, Any]) -> Any:
    """What of endpoints is configured, and not found out."""
    localities = [
        {
            "locality": group.get("locality", {}),
            "priority": group.get("priority", 0),
            "endpoints": [
                {
                    "address": each["endpoint"]["address"],
                    "weight": each.get("load_balancing_weight", 1),
                    "metadata": each.get("metadata", {}),
                }
                for each in group.get("lb_endpoints", [])
            ],
        }
        for group in value.get("endpoints", [])
    ]
    return {"cluster_name": value["cluster_name"], "endpoints": localities}


def _overrides(runtime: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "admin" not in runtime.get("layers", ()):
        return
    at = runtime["layers"].index("admin")
    for name, entry in runtime.get("entries", {}).items():
        value = entry["layer_values"][at]
        # An agent lets calls wait while its application restarts, and leaves a 0 behind.
        if value and (name, value) != (hold.KEY, "0"):
            yield name, value


_FROM_ADS = plain(json.loads(text(from_ads())))
_FROM_ADS_FOR_EVER = plain(json.loads(text(from_ads(FOR_EVER))))
