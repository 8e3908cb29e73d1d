"""Reading sound contracts, all findings at once, options of a newer version, and digests."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2
from isthmus.options.v1 import options_pb2

from mesh.contracts import ContractError, load, read
from mesh.contracts.model import EVERY_WORKLOAD, Idempotency, Locality, Merge, Role
from mesh.contracts.read import descriptors
from tests.unit.contracts.protos import ENTITY, HEAD, SERVICE, SOUND, compiled

MIDDLE = "  string title = 2 [(isthmus.options.v1.field).merge = MERGE_LATEST];\n"
VARIANTS = {
    "sound": SOUND,
    "moved": HEAD + "\n\n" + SERVICE + ENTITY,
    "other_timeout": SOUND.replace("timeout: {seconds: 3}", "timeout: {seconds: 4}"),
    "other_merge": SOUND.replace("MERGE_LATEST", "MERGE_MAX"),
    "renamed_field": SOUND.replace("string title", "string name"),
    "plain_method": SOUND.replace(
        "  rpc WatchOrders",
        "  rpc Nobody(Order) returns (Order) {\n"
        "    option (isthmus.options.v1.method).timeout.seconds = 1;\n  }\n  rpc WatchOrders",
    ),
    "optional_field": SOUND.replace("  string title", "  optional string title"),
    "two_faults": SOUND.replace("MERGE_LATEST", "MERGE_MIN").replace(
        "callers: {workloads", "rate_limit: {burst: 9} callers: {workloads"
    ),
    "homed": SOUND.replace("locality: LOCALITY_NEAREST", "locality: LOCALITY_HOME")
    .replace('key: "order_id"}', 'key: "order_id" home: HOME_ONE_REGION home_field: "home"}')
    .replace(
        "  string title",
        "  string home = 3 [(isthmus.options.v1.field).merge = MERGE_FIRST];\n"
        "  string pin = 4 [(isthmus.options.v1.field) = "
        "{merge: MERGE_LATEST scope: SCOPE_HOME_REGION}];\n  string title",
    )
    .replace("(Order) returns (Order)", "(OrderName) returns (OrderName)")
    + "message OrderName { string order_id = 1; }\n",
    "client_only": SOUND.replace('workloads: "orders"', 'workloads: "batch"'),
}


@pytest.fixture(scope="module")
def sets() -> dict[str, descriptor_pb2.FileDescriptorSet]:
    """Every variant under one package name, so that only what changed differs."""
    return {name: compiled({"shop": text})["shop"] for name, text in VARIANTS.items()}


def test_the_projects_own_contract_is_sound() -> None:
    contract = load()
    assert contract.workloads() == ("authority", "channels", "control", "devices", "overview")
    assert contract.group_of("channels") == "channels"
    create = next(m for m in contract.methods() if m.name == "CreateChannel")
    assert create.path == "/isthmus.channels.v1.ChannelService/CreateChannel"
    assert create.callers.roles == {Role.OPERATOR}
    assert (create.timeout, create.idempotency) == (5.0, Idempotency.IDEMPOTENT)
    assert create.retry is not None
    assert (create.retry.attempts, create.retry.per_try) == (3, 1.0)
    assert create.locality is Locality.NEAREST
    channel = contract.entities["isthmus.channels.v1.Channel"]
    fields = {field.name: field for field in channel.fields}
    assert "channel_id" not in fields
    assert fields["assignment"].order_by == ("epoch", "region")
    assert [inner.path for inner in fields["profile"].fields] == [(5, 1), (5, 2), (5, 3), (5, 4)]
    assert fields["takeovers"].merge is Merge.COUNTER
    assert fields["takeovers"].type == "int64"
    assert fields["labels"].repeated


def test_the_projects_own_contract_fits_three_regions() -> None:
    read(descriptors(), regions=3)


def test_platform_services_are_served_by_all() -> None:
    contract = load()
    status = contract.services["isthmus.mesh.v1.StatusService"]
    assert status.workload == EVERY_WORKLOAD
    assert status in contract.served_by("authority")
    link = contract.services["isthmus.replication.v1.LinkService"]
    assert link in contract.served_by("channels")
    assert link not in contract.served_by("overview")


def test_a_method_without_callers_is_legal(
    sets: dict[str, descriptor_pb2.FileDescriptorSet],
) -> None:
    contract = read(sets["plain_method"])
    nobody = next(m for m in contract.methods() if m.name == "Nobody").callers
    assert not (nobody.workloads or nobody.roles or nobody.peers or nobody.any_workload)


def test_optional_is_no_oneof(sets: dict[str, descriptor_pb2.FileDescriptorSet]) -> None:
    assert read(sets["optional_field"]).entities["shop.Order"].fields[0].name == "title"


def test_all_findings_come_at_once_and_sorted(
    sets: dict[str, descriptor_pb2.FileDescriptorSet],
) -> None:
    with pytest.raises(ContractError) as refused:
        read(sets["two_faults"], regions=1)
    findings = refused.value.findings
    assert [finding.rule for finding in findings] == [
        "FAILOVER_SINGLE_REGION",
        "RATE_LIMIT_INCOMPLETE",
        "MERGE_MIN_UNSET",
    ]
    assert [finding.line for finding in findings] == sorted(finding.line for finding in findings)


def test_a_workload_that_serves_nothing_may_be_a_caller(
    sets: dict[str, descriptor_pb2.FileDescriptorSet],
) -> None:
    with pytest.raises(ContractError, match="CALLER_UNKNOWN"):
        read(sets["client_only"])
    read(sets["client_only"], workloads=["batch"])


def test_digests_cover_what_is_said_and_nothing_else(
    sets: dict[str, descriptor_pb2.FileDescriptorSet],
) -> None:
    base = read(sets["sound"])
    assert len(base.digest) == 32
    assert read(sets["moved"]).digest == base.digest
    slower = read(sets["other_timeout"])
    assert slower.digest != base.digest
    assert slower.group_digests == base.group_digests
    assert read(sets["other_merge"]).group_digests["orders"] != base.group_digests["orders"]
    assert read(sets["renamed_field"]).group_digests == base.group_digests


def changed(
    base: descriptor_pb2.FileDescriptorSet, what: str, unknown: bytes
) -> descriptor_pb2.FileDescriptorSet:
    """A set whose first service, method or replicated field carries more than we know."""
    result = descriptor_pb2.FileDescriptorSet.FromString(base.SerializeToString())
    file = next(file for file in result.file if file.name == "shop.proto")
    if what == "service":
        file.service[0].options.Extensions[options_pb2.service].MergeFromString(unknown)
    elif what == "method":
        file.service[0].method[0].options.Extensions[options_pb2.method].MergeFromString(unknown)
    elif what == "callers":
        method = file.service[0].method[0].options.Extensions[options_pb2.method]
        method.callers.MergeFromString(unknown)
    else:
        file.message_type[0].field[1].options.MergeFromString(unknown)
    return result


@pytest.mark.parametrize(
    ("what", "unknown", "said", "marker"),
    [
        ("service", b"\xf8\x06\x01", "field 111 of ServiceContract", "service) ="),
        ("method", b"\xf8\x06\x01", "field 111 of MethodContract", "method) ="),
        ("callers", b"\xf8\x06\x01", "field 111 of Callers", "method) ="),
        ("callers", b"\x10\x63", "value 99 of Role", "method) ="),
        ("field", b"\x88\xac\x19\x01", "option 51905", "string title"),
    ],
)
def test_options_of_a_newer_isthmus_are_refused(
    what: str,
    unknown: bytes,
    said: str,
    marker: str,
    sets: dict[str, descriptor_pb2.FileDescriptorSet],
) -> None:
    with pytest.raises(ContractError) as refused:
        read(changed(sets["sound"], what, unknown))
    (finding,) = refused.value.findings
    assert finding.rule == "OPTION_UNKNOWN"
    assert said in finding.message
    line = next(n for n, text in enumerate(SOUND.splitlines(), 1) if marker in text)
    assert (finding.file, finding.line) == ("shop.proto", line)


@pytest.mark.parametrize("where", ["file", "message", "enum", "value", "oneof", "misplaced"])
def test_they_are_refused_wherever_they_stand(where: str) -> None:
    text = (
        SOUND + "enum Size { SIZE_UNSPECIFIED = 0; }\nmessage Box { oneof lid { int32 a = 1; } }\n"
    )
    image = compiled({"shop": text})["shop"]
    (file,) = [each for each in image.file if each.name == "shop.proto"]
    holders = {
        "file": file,
        "message": file.message_type[0],
        "enum": file.enum_type[0],
        "value": file.enum_type[0].value[0],
        "oneof": next(m for m in file.message_type if m.name == "Box").oneof_decl[0],
        "misplaced": file.enum_type[0],
    }
    # Option 51905, or the number of a known option where it means nothing to this Isthmus.
    unknown = b"\xf8\xab\x19\x01" if where == "misplaced" else b"\x88\xac\x19\x01"
    holders[where].options.MergeFromString(unknown)
    with pytest.raises(ContractError) as refused:
        read(image)
    assert {finding.rule for finding in refused.value.findings} == {"OPTION_UNKNOWN"}


def test_homes_and_what_stays_in_them_are_read(
    sets: dict[str, descriptor_pb2.FileDescriptorSet],
) -> None:
    contract = read(sets["homed"])
    get = next(m for m in contract.methods() if m.name == "GetOrder")
    assert (get.locality, get.entity, get.key) == (Locality.HOME, "shop.Order", "order_id")
    order = contract.entities["shop.Order"]
    assert order.home == "home"
    assert [field.name for field in order.fields if field.resident] == ["pin"]
    assert contract.group_digests != read(sets["sound"]).group_digests
