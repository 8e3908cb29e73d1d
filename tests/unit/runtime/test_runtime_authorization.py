"""Who may call what, by the project's own contract: every method against every kind of caller."""

from __future__ import annotations

import pytest

from mesh.contracts import exceptions, load
from mesh.contracts.model import Callers, Method, Role
from mesh.runtime import PermissionDenied
from mesh.runtime.authorization import authorize, permits, rules
from mesh.runtime.principal import UNENROLLED, Principal, from_header
from tests.unit.runtime.serving import DOMAIN, device, element, operator, through_edge, workload

OPERATOR = from_header(through_edge(operator()), DOMAIN)
DEVICE = from_header(through_edge(device()), DOMAIN)
METHODS = [
    (served_by, method)
    for served_by in load().workloads()
    for service in load().served_by(served_by)
    for method in service.methods
]


def principal(name: str, region: str = "eu") -> Principal:
    """A workload as its sidecar names it."""
    return from_header(element(workload(name, region)), DOMAIN)


@pytest.mark.parametrize(("served_by", "method"), METHODS, ids=[f"{w}{m.path}" for w, m in METHODS])
def test_every_method_is_open_to_its_callers_and_nobody_else(
    served_by: str, method: Method
) -> None:
    rule = rules(load(), served_by)[method.path]
    callers = method.callers
    everyone = {
        **{
            principal(name, region): callers.any_workload
            or name in callers.workloads
            or (callers.peers and name == served_by and region != "eu")
            for name in (*load().workloads(), "stranger", "edge")
            for region in ("eu", "us")
        },
        OPERATOR: Role.OPERATOR in callers.roles,
        DEVICE: Role.DEVICE in callers.roles,
        UNENROLLED: Role.UNENROLLED in callers.roles,
    }
    assert rule.location == str(method.location)
    for who, allowed in everyone.items():
        assert permits(rule.callers, who, served_by, "eu") is allowed, who
        if allowed:
            authorize(rule, who, served_by, "eu")
        else:
            with pytest.raises(PermissionDenied, match=rule.location):
                authorize(rule, who, served_by, "eu")


def test_peers_are_the_same_workload_elsewhere() -> None:
    peers = Callers(peers=True)
    assert permits(peers, principal("channels", "us"), "channels", "eu")
    assert not permits(peers, principal("channels", "eu"), "channels", "eu")
    assert not permits(peers, principal("devices", "us"), "channels", "eu")


def test_nobody_is_the_default() -> None:
    for who in (OPERATOR, DEVICE, UNENROLLED, principal("channels"), principal("edge")):
        assert not permits(Callers(), who, "channels", "eu")


def test_a_workload_has_rules_for_what_it_serves_and_the_exceptions() -> None:
    overview = rules(load(), "overview")
    assert "/isthmus.overview.v1.OverviewService/GetOverview" in overview
    assert "/isthmus.mesh.v1.StatusService/GetStatus" in overview
    assert "/isthmus.channels.v1.ChannelService/GetChannel" not in overview
    assert "/isthmus.replication.v1.LinkService/Follow" not in overview
    assert set(exceptions.CALLERS_BY_PATH) < set(overview)
    reflection = overview["/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"]
    assert permits(reflection.callers, OPERATOR, "overview", "eu")
    assert not permits(reflection.callers, DEVICE, "overview", "eu")
    assert not permits(reflection.callers, principal("channels"), "overview", "eu")
