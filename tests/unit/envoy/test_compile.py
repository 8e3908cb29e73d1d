"""What the contract says is what the sidecars are told, and nothing more."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mesh import topology as topologies
from mesh.access import Access, JwtIssuer
from mesh.contracts import exceptions
from mesh.contracts.model import EVERY_WORKLOAD, Contract, Idempotency, Locality, Method, Role
from mesh.contracts.read import load
from mesh.envoy import EnvoyConfigError, compile_for
from mesh.envoy.render import render
from mesh.envoy.retries import BEFORE_IT_BEGAN, ON_FAILURE
from mesh.place import EDGE, Place
from mesh.traffic import Bounds, Traffic

ROOT = Path(__file__).parents[3]
TOPOLOGY = topologies.load(ROOT / "mesh.yaml")
CONTRACT = load()
EVERYONE = (*TOPOLOGY.workloads, EDGE)
_FILTER = "envoy.filters.http.rbac"


def place(region: str, workload: str) -> Place:
    return Place(
        region,
        workload,
        TOPOLOGY.path,
        Path("/run/isthmus") / region / workload,
        Path("/var/isthmus") / region / workload,
    )


@cache
def compiled(region: str, workload: str) -> dict[str, Any]:
    bootstrap = compile_for(CONTRACT, TOPOLOGY, place(region, workload)).bootstrap
    document: dict[str, Any] = json.loads(bootstrap)
    return document


def listener(region: str, workload: str, name: str) -> dict[str, Any]:
    for found in compiled(region, workload)["static_resources"]["listeners"]:
        if found["name"] == name:
            return found
    raise AssertionError(f"{region}/{workload} has no listener {name}")


def manager(region: str, workload: str, name: str) -> dict[str, Any]:
    return listener(region, workload, name)["filter_chains"][0]["filters"][-1]["typed_config"]


def hosts(region: str, workload: str, name: str) -> list[dict[str, Any]]:
    return manager(region, workload, name)["route_config"]["virtual_hosts"]


def routes(region: str, workload: str, name: str) -> Iterator[dict[str, Any]]:
    for host in hosts(region, workload, name):
        yield from host["routes"]


def principals(route: dict[str, Any]) -> set[str]:
    policies = route["typed_per_filter_config"][_FILTER]["rbac"]["rules"].get("policies", {})
    return {
        name.get("exact") or name["prefix"] + "*"
        for policy in policies.values()
        for principal in policy["principals"]
        for name in [principal["authenticated"]["principal_name"]]
    }


def every_route() -> Iterator[dict[str, Any]]:
    for workload in TOPOLOGY.workloads:
        yield from routes("eu", workload, "inbound")
        yield from routes("eu", workload, "egress")
    yield from routes("eu", EDGE, "edge")
    yield from routes("eu", EDGE, "egress")


METHODS = {method.path: method for method in CONTRACT.methods()}


def uri(region: str, workload: str) -> str:
    return f"spiffe://{TOPOLOGY.trust_domain}/region/{region}/workload/{workload}"


def expected_callers(method: Method, callee: str, region: str) -> set[str]:
    """The contract's callers, written down again on their own."""
    regions = TOPOLOGY.region_names
    who = method.callers
    names = {uri(r, w) for w in who.workloads for r in regions}
    if who.any_workload:
        names |= {uri(r, w) for w in EVERYONE for r in regions}
    if who.peers:
        names |= {uri(r, callee) for r in regions if r != region}
    if who.roles & {Role.OPERATOR, Role.DEVICE}:
        names |= {uri(r, EDGE) for r in regions}
    return names


@pytest.mark.parametrize("workload", TOPOLOGY.workloads)
def test_inbound_allows_exactly_the_contracts_callers(workload: str) -> None:
    seen = set()
    for route in routes("us", workload, "inbound"):
        path = route["match"]["path"]
        seen.add(path)
        if path in METHODS:
            assert principals(route) == expected_callers(METHODS[path], workload, "us"), path
    served = {m.path for s in CONTRACT.served_by(workload) for m in s.methods}
    unenrolled = {p for p in served if METHODS[p].callers.roles == {Role.UNENROLLED}}
    assert seen == (served - unenrolled) | exceptions.served_by(workload).keys() | {"/metrics"}


@pytest.mark.parametrize("workload", EVERYONE)
def test_egress_lets_through_exactly_what_the_workload_may_call(workload: str) -> None:
    allowed = {
        (callee, method.path)
        for callee in TOPOLOGY.workloads
        for service in CONTRACT.served_by(callee)
        for method in service.methods
        if workload in method.callers.workloads
        or method.callers.any_workload
        or (method.callers.peers and callee == workload)
    }
    found = {
        (host["domains"][0].split(".")[0], route["match"]["path"])
        for host in hosts("eu", workload, "egress")
        for route in host["routes"]
        if "route" in route
    }
    assert found == allowed


@pytest.mark.parametrize("workload", EVERYONE)
def test_egress_ends_in_a_refusal_everywhere(workload: str) -> None:
    tables = hosts("eu", workload, "egress")
    assert tables[-1]["domains"] == ["*"]
    for host in tables:
        last = host["routes"][-1]
        assert last["match"] == {"prefix": "/"}
        assert last["direct_response"]["status"] == 403
        assert workload in last["direct_response"]["body"]["inline_string"]


def test_an_edge_asks_for_the_role_of_each_method() -> None:
    seen = set()
    strangers, *found = routes("eu", EDGE, "edge")
    assert "direct_response" in strangers
    for route in found:
        path = route["match"].get("path")
        who = METHODS[path].callers if path in METHODS else exceptions.CALLERS_BY_PATH.get(path)
        if who is None:
            assert path.startswith(exceptions.METRICS.prefix)
            who = exceptions.METRICS.callers
        expected = {
            f"spiffe://{TOPOLOGY.trust_domain}/{role.value}/*"
            for role in who.roles - {Role.UNENROLLED}
        }
        assert principals(route) == expected, path
        seen.add(path)
    for path, method in METHODS.items():
        assert (path in seen) == bool(method.callers.roles - {Role.UNENROLLED}), path


def test_platform_services_at_an_edge_go_by_header_and_else_to_overview() -> None:
    platform = [s for s in CONTRACT.services.values() if s.workload == EVERY_WORKLOAD]
    paths = {
        m.path: {w for w in TOPOLOGY.workloads if s in CONTRACT.served_by(w)}
        for s in platform
        for m in s.methods
        if m.callers.roles
    }
    paths |= {p: set(TOPOLOGY.workloads) for p, w in exceptions.CALLERS_BY_PATH.items() if w.roles}
    # A service of those who own a group is not for the others: they would not know it.
    assert {"channels", "control", "devices"} in paths.values()
    for path, serving in paths.items():
        ways = {}
        for route in routes("eu", EDGE, "edge"):
            if route["match"].get("path") == path:
                if "direct_response" in route:
                    # The last: whoever names none of them, or another one, is told.
                    told = route["direct_response"]["body"]["inline_string"]
                    assert all(workload in told for workload in serving)
                    ways["told"] = ""
                    continue
                assert "told" not in ways
                (header,) = route["match"]["headers"]
                assert header["name"] == "x-isthmus-workload"
                ways[header.get("string_match", {}).get("exact")] = route["route"]["cluster"]
        default = {None: "overview/local"} if "overview" in serving else {}
        assert ways == {w: f"{w}/local" for w in serving} | default | {"told": ""}


def test_no_route_repeats_a_call_unless_its_method_is_idempotent() -> None:
    retried = 0
    for route in every_route():
        policy = route.get("route", {}).get("retry_policy")
        if policy is None or policy["retry_on"] == BEFORE_IT_BEGAN:
            continue
        retried += 1
        method = METHODS[route["match"]["path"]]
        assert method.idempotency is not Idempotency.UNKNOWN
        assert method.retry is not None
        assert policy["num_retries"] == method.retry.attempts - 1
        assert float(policy["per_try_timeout"].rstrip("s")) == method.retry.per_try
    assert retried > 10


def test_what_nobody_repeats_elsewhere_waits_for_a_process_that_is_started_again() -> None:
    waiting = set()
    for workload in TOPOLOGY.workloads:
        for route in routes("eu", workload, "inbound"):
            policy = route["route"].get("retry_policy")
            if policy is not None:
                assert policy["retry_on"] == BEFORE_IT_BEGAN
                waiting.add(route["match"]["path"])
    assert waiting == {
        method.path
        for method in METHODS.values()
        if not (method.retry and method.locality is Locality.NEAREST)
        and not method.client_streaming
        and method.callers.roles != {Role.UNENROLLED}
    }


@pytest.mark.parametrize("workload", TOPOLOGY.workloads)
def test_who_gets_a_retry_is_told_which_attempt_it_is(workload: str) -> None:
    for host in hosts("eu", workload, "egress"):
        retried = any("retry_policy" in r.get("route", {}) for r in host["routes"])
        assert not retried or host["include_request_attempt_count"]
    # What a caller's own sidecar counted passes.
    for host in hosts("eu", workload, "inbound"):
        assert not host.get("include_request_attempt_count")


def test_every_retry_of_the_contract_is_in_some_callers_sidecar() -> None:
    retried = {
        route["match"]["path"]
        for route in every_route()
        if route.get("route", {}).get("retry_policy", {}).get("retry_on") == ON_FAILURE
    }
    assert retried == {path for path, method in METHODS.items() if method.retry is not None}


def test_deadlines_are_stream_durations_never_route_timeouts() -> None:
    for route in every_route():
        path = route["match"].get("path", "")
        if path not in METHODS or "direct_response" in route:
            continue
        action, method = route["route"], METHODS[path]
        limit = method.stream_max_age if method.streaming else method.timeout
        assert limit is not None
        grace = 1 if action["cluster"] == "app" else 0
        duration = action["max_stream_duration"]
        assert duration["max_stream_duration"] == f"{limit + grace:g}s", path
        assert duration["grpc_timeout_header_max"] == duration["max_stream_duration"]
        assert action["timeout"] == action["idle_timeout"] == "0s"


@pytest.mark.parametrize("workload", TOPOLOGY.workloads)
def test_inbound_requires_a_certificate_denies_by_default_and_appends_the_peer(
    workload: str,
) -> None:
    found = listener("eu", workload, "inbound")
    tls = found["filter_chains"][0]["transport_socket"]["typed_config"]
    assert tls["require_client_certificate"] is True
    assert found["enable_reuse_port"] is False
    http = manager("eu", workload, "inbound")
    first = http["http_filters"][0]
    assert first["name"] == _FILTER
    assert first["typed_config"]["rules"] == {}  # no policy: nobody
    assert http["forward_client_cert_details"] == "APPEND_FORWARD"
    assert http["set_current_client_cert_details"] == {"uri": True}


@pytest.mark.parametrize("workload", EVERYONE)
def test_connections_from_outside_are_bounded_and_leave_room_for_the_own(workload: str) -> None:
    document = compiled("eu", workload)
    monitor, *more = document["overload_manager"]["resource_monitors"]
    assert monitor["name"] == "envoy.resource_monitors.global_downstream_max_connections"
    assert int(monitor["typed_config"]["max_active_downstream_connections"]) > 1000
    heap = ["envoy.resource_monitors.fixed_heap"] if workload == EDGE else []
    assert [each["name"] for each in more] == heap
    assert document["admin"]["ignore_global_conn_limit"] is True
    free = {
        found["name"]
        for found in document["static_resources"]["listeners"]
        if found.get("ignore_global_conn_limit")
    }
    assert free == {"egress", "enrolment"} if workload == "authority" else free == {"egress"}


def test_an_edge_replaces_what_clients_claim() -> None:
    http = manager("eu", EDGE, "edge")
    assert http["forward_client_cert_details"] == "SANITIZE_SET"
    assert http["set_current_client_cert_details"] == {"uri": True, "subject": True}
    (deny,) = (each for each in http["http_filters"] if each["name"] == _FILTER)
    assert deny["typed_config"]["rules"] == {}


def test_an_edge_bounds_what_one_client_can_cost() -> None:
    http = manager("eu", EDGE, "edge")
    assert http["request_headers_timeout"] == "10s"
    assert http["max_request_headers_kb"] == 16
    assert http["common_http_protocol_options"]["idle_timeout"] == "30s"
    assert http["http2_protocol_options"]["max_concurrent_streams"] == 128
    assert listener("eu", EDGE, "edge")["per_connection_buffer_limit_bytes"] == 256 * 1024
    filters = [each["name"] for each in http["http_filters"]]
    # Who may not call is not listened to at length.
    assert filters.index(_FILTER) < filters.index("envoy.filters.http.buffer")
    streaming = {m.path for m in CONTRACT.methods() if m.client_streaming and m.callers.roles}
    assert streaming
    for route in routes("eu", EDGE, "edge"):
        unheld = "envoy.filters.http.buffer" in route.get("typed_per_filter_config", {})
        if "route" not in route:
            # A refusal waits for nothing.
            assert unheld
            continue
        assert route["route"]["max_stream_duration"]["max_stream_duration"]
        path = route["match"]["path"]
        free = path in streaming | set(exceptions.CALLERS_BY_PATH) or path.startswith("/metrics/")
        assert unheld == free


@pytest.mark.parametrize("workload", EVERYONE)
def test_no_session_is_resumed(workload: str) -> None:
    for found in compiled("eu", workload)["static_resources"]["listeners"]:
        for chain in found["filter_chains"]:
            if "transport_socket" in chain:
                context = chain["transport_socket"]["typed_config"]
                assert context["disable_stateless_session_resumption"] is True
                assert context["disable_stateful_session_resumption"] is True


def test_enrolment_is_one_rate_limited_route_in_the_authority_alone() -> None:
    with_enrolment = [
        workload
        for workload in EVERYONE
        for found in compiled("eu", workload)["static_resources"]["listeners"]
        if found["name"] == "enrolment"
    ]
    assert with_enrolment == ["authority"]
    tls = listener("eu", "authority", "enrolment")["filter_chains"][0]["transport_socket"]
    assert "require_client_certificate" not in tls["typed_config"] or (
        tls["typed_config"]["require_client_certificate"] is False
    )
    http = manager("eu", "authority", "enrolment")
    assert http.get("forward_client_cert_details", "SANITIZE") == "SANITIZE"
    assert "envoy.filters.http.local_ratelimit" in [f["name"] for f in http["http_filters"]]
    forwarded = [r["match"] for r in routes("eu", "authority", "enrolment") if "route" in r]
    # Whoever can reach the port can send: little, not for long, and not from everywhere at once.
    buffer = next(f for f in http["http_filters"] if f["name"] == "envoy.filters.http.buffer")
    assert buffer["typed_config"]["max_request_bytes"] == 64 * 1024
    assert http["common_http_protocol_options"]["idle_timeout"] == "10s"
    first = listener("eu", "authority", "enrolment")["filter_chains"][0]["filters"][0]
    assert first["typed_config"]["max_connections"] == 256
    assert forwarded == [{"path": "/isthmus.mesh.v1.EnrolmentService/Enrol"}]


def _clusters(region: str, workload: str) -> dict[str, dict[str, Any]]:
    found = compiled(region, workload)["static_resources"]["clusters"]
    return {cluster["name"]: cluster for cluster in found}


def test_nearest_fails_over_in_order_and_verifies_each_region_as_itself() -> None:
    cluster = _clusters("us", EDGE)["channels/nearest"]
    order = [e["locality"]["region"] for e in cluster["load_assignment"]["endpoints"]]
    assert tuple(order) == TOPOLOGY.failover_order("us") == ("us", "ap", "eu")
    priorities = [e.get("priority", 0) for e in cluster["load_assignment"]["endpoints"]]
    assert priorities == [0, 1, 2]
    assert cluster["outlier_detection"]["consecutive_gateway_failure"] == 3
    assert cluster["health_checks"][0]["grpc_health_check"] == {"authority": "channels"}
    for match in cluster["transport_socket_matches"]:
        context = match["transport_socket"]["typed_config"]
        assert match["match"] == {"region": match["name"]}
        assert _verified(context) == uri(match["name"], "channels")
        assert context["sni"] == f"channels.{match['name']}.{TOPOLOGY.trust_domain}"


def test_a_pinned_cluster_has_one_region_and_no_ejection() -> None:
    clusters = _clusters("eu", "channels")
    pinned = {name for name in clusters if "/pinned/" in name}
    assert pinned == {"channels/pinned/us", "channels/pinned/ap"}
    cluster = clusters["channels/pinned/us"]
    (locality,) = cluster["load_assignment"]["endpoints"]
    (endpoint,) = locality["lb_endpoints"]
    address = endpoint["endpoint"]["address"]["socket_address"]
    route = TOPOLOGY.route("eu", "us", "channels")
    assert (address["address"], address["port_value"]) == (route.host, route.port)
    assert "outlier_detection" not in cluster
    assert "health_checks" not in cluster
    assert _verified(cluster["transport_socket"]["typed_config"]) == uri("us", "channels")


def test_bounds_are_in_every_cluster_and_those_of_mesh_yaml_in_those_of_their_workload() -> None:
    bounds = Bounds(7, 8, 9, 10.0, 11, 12, 13.0)
    topology = replace(TOPOLOGY, traffic=Traffic(bounds=(("channels", bounds),)))
    bounded = 0
    for workload in EVERYONE:
        document = json.loads(compile_for(CONTRACT, topology, place("eu", workload)).bootstrap)
        for cluster in document["static_resources"]["clusters"]:
            (threshold,) = cluster["circuit_breakers"]["thresholds"]
            budget = threshold["retry_budget"]
            assert threshold["max_requests"] and budget["min_retry_concurrency"]
            if not cluster["name"].startswith("channels/"):
                assert threshold["max_connections"] == 1024
                continue
            bounded += 1
            assert [threshold[f"max_{n}"] for n in ("connections", "pending_requests")] == [7, 8]
            assert threshold["max_requests"] == 9
            assert budget == {"budget_percent": {"value": 10.0}, "min_retry_concurrency": 11}
            if cluster["name"] == "channels/nearest":
                assert cluster["outlier_detection"]["consecutive_gateway_failure"] == 12
                assert cluster["outlier_detection"]["base_ejection_time"] == "13s"
    assert bounded > 3


def test_every_cluster_to_a_workload_pings_so_that_a_stall_is_noticed() -> None:
    for workload in EVERYONE:
        for name, cluster in _clusters("eu", workload).items():
            if "/" not in name:
                continue
            (options,) = cluster["typed_extension_protocol_options"].values()
            http2 = options["explicit_http_config"]["http2_protocol_options"]
            seconds = [float(v.rstrip("s")) for v in http2["connection_keepalive"].values()]
            assert sum(seconds) <= 3


def test_there_is_a_cluster_for_each_target_and_no_other() -> None:
    for workload in EVERYONE:
        text = json.dumps(compiled("eu", workload)["static_resources"]["listeners"])
        used = set(re.findall(r'"cluster": "([^"]+)"', text))
        # An edge's script asks its agent.
        used |= set(re.findall(r'httpCall\(\\"([^"\\]+)', text))
        assert used == _clusters("eu", workload).keys()


def test_tracing_is_there_only_with_a_collector() -> None:
    for workload, names in (("channels", ("inbound", "egress")), (EDGE, ("edge", "egress"))):
        where = place("eu", workload)
        without = compile_for(CONTRACT, TOPOLOGY, where).bootstrap
        traced = compile_for(CONTRACT, TOPOLOGY, replace(where, otlp="collector.test:4317"))
        assert "opentelemetry" not in without
        document = json.loads(traced.bootstrap)
        clusters = {c["name"]: c for c in document["static_resources"]["clusters"]}
        assert clusters["collector"]["type"] == "STRICT_DNS"
        for found in document["static_resources"]["listeners"]:
            if found["name"] in names:
                http = found["filter_chains"][0]["filters"][-1]["typed_config"]
                assert http["tracing"]["provider"]["name"] == "envoy.tracers.opentelemetry"


def test_no_payload_and_no_secret_is_logged() -> None:
    text = compile_for(CONTRACT, TOPOLOGY, place("eu", "authority")).bootstrap
    assert "%REQ(AUTHORIZATION)%" not in text
    assert "BODY" not in text
    assert "PRIVATE KEY" not in text


def test_the_same_inputs_give_the_same_bytes() -> None:
    where = place("ap", "channels")
    assert compile_for(CONTRACT, TOPOLOGY, where) == compile_for(CONTRACT, TOPOLOGY, where)


def test_a_socket_path_that_is_too_long_is_refused_before_envoy_sees_it() -> None:
    where = replace(place("eu", EDGE), run=Path("/" + "x" * 110))
    with pytest.raises(EnvoyConfigError, match=r"too long for a socket.*shorter folder"):
        compile_for(CONTRACT, TOPOLOGY, where)


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(EnvoyConfigError, match="add it to `workloads`"):
        compile_for(CONTRACT, TOPOLOGY, place("eu", "unheard-of"))


def test_a_method_that_names_no_caller_is_reachable_by_nobody() -> None:
    service = CONTRACT.services["isthmus.channels.v1.ChannelService"]
    closed = replace(
        service.methods[0], callers=replace(service.methods[0].callers, roles=frozenset())
    )
    contract = Contract(
        {**CONTRACT.services, service.name: replace(service, methods=(closed,))}, {}
    )
    document = json.loads(compile_for(contract, TOPOLOGY, place("eu", "channels")).bootstrap)
    inbound = document["static_resources"]["listeners"][0]
    http = inbound["filter_chains"][0]["filters"][0]["typed_config"]
    (route,) = [
        r
        for r in http["route_config"]["virtual_hosts"][0]["routes"]
        if r["match"]["path"] == closed.path
    ]
    assert principals(route) == set()
    assert closed.path not in {
        r["match"].get("path")
        for r in json.loads(compile_for(contract, TOPOLOGY, place("eu", EDGE)).bootstrap)[
            "static_resources"
        ]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["route_config"][
            "virtual_hosts"
        ][0]["routes"]
    }


def test_locality_decides_the_cluster() -> None:
    for route in routes("eu", EDGE, "edge"):
        method = METHODS.get(route["match"].get("path", ""))
        if method is not None and method.locality is Locality.NEAREST:
            assert route["route"]["cluster"].endswith("/nearest")


def test_a_call_goes_to_the_home_that_it_names_and_else_to_its_own_region() -> None:
    service = CONTRACT.services["isthmus.channels.v1.ChannelService"]
    moved = next(m for m in service.methods if Role.OPERATOR in m.callers.roles)
    method = replace(
        moved,
        locality=Locality.HOME,
        callers=replace(moved.callers, workloads=frozenset({"overview"})),
    )
    methods = tuple(method if m is moved else m for m in service.methods)
    services = {**CONTRACT.services, service.name: replace(service, methods=methods)}
    contract = replace(CONTRACT, services=services)
    for document in (
        compile_for(contract, TOPOLOGY, place("eu", EDGE)),
        compile_for(contract, TOPOLOGY, place("eu", "overview")),
    ):
        found = [
            (route["match"].get("headers", []), route["route"]["cluster"])
            for each in json.loads(document.bootstrap)["static_resources"]["listeners"]
            for host in each["filter_chains"][0]["filters"][-1]["typed_config"]
            .get("route_config", {})
            .get("virtual_hosts", ())
            for route in host["routes"]
            if route["match"].get("path") == method.path
        ]
        homes = [
            (headers[0]["name"], headers[0]["string_match"]["exact"], cluster)
            for headers, cluster in found
            if headers
        ]
        assert homes == [
            ("x-isthmus-home", region, f"channels/pinned/{region}")
            for region in TOPOLOGY.region_names
        ]
        # The first that matches is taken, so the one for all comes last.
        assert found[-1] == ([], "channels/local")


def test_render_is_validated_by_envoy_and_reproducible(tmp_path: Path) -> None:
    one = replace(TOPOLOGY, regions=TOPOLOGY.regions[:1])
    first = render(CONTRACT, one, place, tmp_path / "a")
    second = render(CONTRACT, one, place, tmp_path / "b")
    assert [f.name for f in first] == list(EVERYONE)
    for before, after in zip(first, second, strict=True):
        names = sorted(p.name for p in before.iterdir())
        assert names == ["bootstrap.json"]
        for name in names:
            assert (before / name).read_bytes() == (after / name).read_bytes()


def _verified(context: dict[str, Any]) -> str:
    validation = context["common_tls_context"]["combined_validation_context"]
    assert validation["validation_context_sds_secret_config"]["name"] == "roots"
    (match,) = validation["default_validation_context"]["match_typed_subject_alt_names"]
    assert match["san_type"] == "URI"
    exact: str = match["matcher"]["exact"]
    return exact


def test_an_edge_asks_everyone_for_a_certificate_unless_mesh_yaml_says_otherwise() -> None:
    for access, required in (
        (Access(), True),
        (Access(origins=("https://a.example",)), False),
        (Access(jwt=ISSUER), False),
    ):
        found = _edge_of(access)
        tls = found["filter_chains"][0]["transport_socket"]["typed_config"]
        assert tls.get("require_client_certificate", False) is required
        # One that is shown is verified all the same.
        verified = tls["common_tls_context"]["combined_validation_context"]
        assert verified["validation_context_sds_secret_config"]["name"] == "roots"


def test_a_token_opens_what_operators_may_call_and_nothing_else() -> None:
    (host,) = _edge_of(Access(jwt=ISSUER))["filter_chains"][0]["filters"][-1]["typed_config"][
        "route_config"
    ]["virtual_hosts"]
    by_token = set()
    for route in host["routes"][1:]:
        policies = route["typed_per_filter_config"][_FILTER]["rbac"]["rules"]["policies"]
        if "sourced_metadata" in json.dumps(policies):
            by_token.add(route["match"]["path"])
    methods = {m.path for m in CONTRACT.methods() if Role.OPERATOR in m.callers.roles}
    pages = {f"{exceptions.METRICS.prefix}{name}" for name in TOPOLOGY.workloads}
    assert by_token == methods | set(exceptions.CALLERS_BY_PATH) | pages
    (named,) = host["request_headers_to_add"]
    assert named["header"]["key"] == "x-forwarded-client-cert"
    assert named["append_action"] == "ADD_IF_ABSENT"  # a certificate goes before


def test_a_request_is_json_before_it_is_judged_and_a_token_is_read_before_both() -> None:
    http = _edge_of(Access(jwt=ISSUER))["filter_chains"][0]["filters"][-1]["typed_config"]
    names = [each["name"].rpartition(".")[2] for each in http["http_filters"]]
    assert names == [
        "local_ratelimit",
        "cors",
        "grpc_web",
        "jwt_authn",
        "grpc_json_transcoder",
        "rbac",
        "lua",
        "buffer",
        "clock",
        "drills",
        "grpc_stats",
        "router",
    ]


ISSUER = JwtIssuer("https://login.example", "isthmus", '{"keys": []}')


def _edge_of(access: Access) -> dict[str, Any]:
    topology = replace(TOPOLOGY, access=access)
    document = json.loads(compile_for(CONTRACT, topology, place("eu", EDGE)).bootstrap)
    found: dict[str, Any] = document["static_resources"]["listeners"][0]
    return found


def test_who_was_revoked_is_in_no_policy_and_no_cluster() -> None:
    gone = "spiffe://isthmus.test/region/us/workload/channels"
    out = ("spiffe://isthmus.test/operator/ann", "spiffe://isthmus.test/device/cam-1")
    topology = replace(TOPOLOGY, revoked=frozenset({gone, *out}), access=Access(jwt=ISSUER))
    for workload in (*TOPOLOGY.workloads, EDGE):
        document = json.loads(compile_for(CONTRACT, topology, place("eu", workload)).bootstrap)
        (entry,) = (
            found
            for found in document["static_resources"]["listeners"]
            if found["name"] in ("inbound", "edge")
        )
        first, *_, manager = entry["filter_chains"][0]["filters"]
        # Its connections end before anything of theirs is read.
        assert first["name"] == "envoy.filters.network.rbac"
        assert first["typed_config"]["rules"]["action"] == "DENY"
        assert all(uri in json.dumps(first) for uri in (gone, *out))
        # Nor does a policy name that workload, or a cluster lead there.
        assert gone not in json.dumps(manager)
        for found in document["static_resources"]["clusters"]:
            if gone in json.dumps(found):
                (locality,) = found["load_assignment"]["endpoints"]
                assert "lb_endpoints" not in locality
        if workload == EDGE:
            policies = json.dumps(manager)
            assert policies.count(
                f'"not_id": {{"authenticated": {{"principal_name": {{"exact": "{out[0]}"'
            )
            assert '"value": {"string_match": {"exact": "ann"}}' in policies
    again = compile_for(CONTRACT, TOPOLOGY, place("eu", EDGE)).bootstrap
    assert "envoy.filters.network.rbac" not in again
