"""`google.api.http`: what is wrong with it is refused, and what is right becomes descriptors."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

from mesh.contracts import ContractError, read
from mesh.contracts.bindings import shape, variables, well_formed
from mesh.contracts.model import Binding
from mesh.contracts.read import descriptors, load
from mesh.contracts.rules.bindings import RULES
from mesh.contracts.transcoding import transcoding
from tests.unit.contracts.protos import SOUND, compiled

MARK = "// HERE"
_IMPORT = 'import "isthmus/options/v1/options.proto";\n'
_READS = "option idempotency_level = NO_SIDE_EFFECTS;"


def bound(rule: str, *, rpc: str = "(Order) returns (Order)", head: str = _READS) -> str:
    """The sound contract with one more method that operators call as JSON."""
    return _with(rule, rpc, head, "callers: {roles: ROLE_OPERATOR}")


def _with(rule: str, rpc: str, head: str, callers: str) -> str:
    method = f"""\
  rpc Extra{rpc} {{
    {head}
    option (google.api.http) = {{{rule}}}; {MARK}
    option (isthmus.options.v1.method) = {{ {callers} timeout: {{seconds: 3}} }};
  }}
  rpc WatchOrders"""
    text = SOUND.replace("  rpc WatchOrders", method)
    return text.replace(_IMPORT, f'import "google/api/annotations.proto";\n{_IMPORT}')


def _twice() -> str:
    first = bound('get: "/v1/orders/{order_id}"').replace(f" {MARK}", "")
    second = bound('get: "/v1/orders/{title=*}"')
    extra = second[second.index("  rpc Extra") : second.index("  rpc WatchOrders")]
    return first.replace("  rpc WatchOrders", extra.replace("Extra", "Other") + "  rpc WatchOrders")


CASES = {
    "path": ("HTTP_PATH", bound('get: "v1/orders"'), "/v1/orders/{order_id}"),
    "slash": ("HTTP_PATH", bound('get: "/v1/orders/"'), "/v1/orders/{order_id}"),
    "verb": ("HTTP_PATH", bound('custom: {kind: "HEAD" path: "/v1/orders"}'), "write one of get"),
    "none": ("HTTP_PATH", bound("selector: 'a'"), "write one of get"),
    "metrics": ("HTTP_PATH", bound('get: "/metrics/orders"'), "such as /v1/"),
    "twice": ("HTTP_PATH_TWICE", _twice(), "the other is at twice.proto:"),
    "variable": ("HTTP_FIELD", bound('get: "/v1/orders/{id}"'), "it has order_id, title"),
    "nested": ("HTTP_FIELD", bound('get: "/v1/orders/{title.text}"'), "it has order_id, title"),
    "body_field": (
        "HTTP_FIELD",
        bound('post: "/v1/orders" body: "order"'),
        'write "*" for all that the path does not set',
    ),
    "streaming": (
        "HTTP_STREAMING",
        bound('get: "/v1/orders"', rpc="(stream Order) returns (Order)").replace(
            "timeout: {seconds: 3} }", "stream_max_age: {seconds: 3} }"
        ),
        "add a method that takes one message",
    ),
    "get": ("HTTP_GET_CHANGES", bound('get: "/v1/orders"', head=""), 'post with body: "*"'),
    "body": ("HTTP_BODY", bound('post: "/v1/orders"'), 'add body: "*"'),
    "get_body": ("HTTP_BODY", bound('get: "/v1/orders" body: "*"'), "query parameters"),
    "nobody": (
        "HTTP_NOBODY",
        _with(
            'get: "/v1/orders"', "(Order) returns (Order)", _READS, "callers: {any_workload: true}"
        ),
        "ROLE_OPERATOR",
    ),
    "answer": (
        "HTTP_RESPONSE_BODY",
        bound('get: "/v1/orders" response_body: "title"'),
        "the whole response message",
    ),
}


@pytest.fixture(scope="module")
def sets() -> dict[str, descriptor_pb2.FileDescriptorSet]:
    good = bound('get: "/v1/orders/{order_id}" additional_bindings: {get: "/v1/orders"}')
    return compiled({"good": good} | {name: text for name, (_, text, _) in CASES.items()})


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_json_form_is_refused_with_file_line_and_remedy(
    name: str, sets: dict[str, descriptor_pb2.FileDescriptorSet]
) -> None:
    rule, text, remedy = CASES[name]
    with pytest.raises(ContractError) as refused:
        read(sets[name])
    (finding,) = refused.value.findings
    marked = [n for n, line in enumerate(text.splitlines(), 1) if MARK in line]
    assert (finding.rule, finding.file, [finding.line]) == (rule, f"{name}.proto", marked)
    assert remedy in finding.remedy


def test_every_rule_has_a_case() -> None:
    assert {rule.id for rule in RULES} == {rule for rule, _, _ in CASES.values()}


def test_json_forms_are_read(sets: dict[str, descriptor_pb2.FileDescriptorSet]) -> None:
    contract = read(sets["good"])
    method = next(m for m in contract.methods() if m.name == "Extra")
    assert method.http == (Binding("GET", "/v1/orders/{order_id}"), Binding("GET", "/v1/orders"))
    assert method.at("google.api.http").line > method.location.line
    # A contract that differs in them is another one.
    plain = read(compiled({"good": SOUND})["good"])
    assert plain.transcoding == b"" and plain.digest != contract.digest


@pytest.mark.parametrize(
    ("path", "fields", "as_matched"),
    [
        ("/v1/channels/{channel_id}:start", ["channel_id"], "/v1/channels/*:start"),
        ("/v1/{name=shelves/*}/{b.c}", ["name", "b.c"], "/v1/shelves/*/*"),
        ("/v1", [], "/v1"),
    ],
)
def test_paths(path: str, fields: list[str], as_matched: str) -> None:
    assert well_formed(path)
    assert (variables(path), shape(path)) == (fields, as_matched)


@pytest.mark.parametrize("path", ["", "/", "v1", "/v1/", "/v1//a", "/{A}", "/{a", "/a b", "/a?b=c"])
def test_what_is_no_path(path: str) -> None:
    assert not well_formed(path)


def test_edges_get_descriptors_of_what_they_carry_and_no_more() -> None:
    contract = load()
    found = descriptor_pb2.FileDescriptorSet.FromString(contract.transcoding)
    carried = {
        f"{file.package}.{service.name}/{method.name}"
        for file in found.file
        for service in file.service
        for method in service.method
    }
    assert carried == {m.path[1:] for m in contract.methods() if m.http}
    assert "isthmus.overview.v1.OverviewService/WatchOverview" in carried
    before: set[str] = set()
    for file in found.file:
        assert set(file.dependency) <= before, file.name
        before.add(file.name)
        assert not file.HasField("source_code_info")
        assert not file.name.startswith(("isthmus/options/", "buf/", "isthmus/replication/"))
        for service in file.service:
            for method in service.method:
                assert [field.name for field, _ in method.options.ListFields()] == ["http"]
    assert "google/rpc/error_details.proto" in before
    assert len(contract.transcoding) < 32 * 1024


def test_without_json_forms_there_are_no_descriptors() -> None:
    contract = load()
    services = {
        name: replace(s, methods=tuple(replace(m, http=()) for m in s.methods))
        for name, s in contract.services.items()
    }
    assert transcoding(descriptors(), replace(contract, services=services)) == b""


def test_the_option_is_the_standard_one() -> None:
    assert annotations_pb2.http.full_name == "google.api.http"
