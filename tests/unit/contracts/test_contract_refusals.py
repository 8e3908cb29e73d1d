"""Each rule refuses what it is for, with file, line and remedy, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from unittest.mock import patch

import pytest
from google.protobuf import descriptor_pb2

from mesh.contracts import ContractError, read, support
from mesh.contracts.rules import RULES, bindings
from mesh.contracts.support import Row, Support
from tests.unit.contracts.protos import ENTITY, HEAD, SERVICE, SOUND, compiled

MARK = "// HERE"


@dataclass(frozen=True)
class Case:
    """A contract with one fault, on the line that carries MARK."""

    rule: str
    text: str
    remedy: str
    regions: int | None = None


def sound(old: str, new: str) -> str:
    """The sound contract with one thing changed."""
    assert SOUND.count(old) == 1, old
    return SOUND.replace(old, new)


def method(options: str, *, rpc: str = "(Order) returns (Order)", head: str = "") -> str:
    """The sound contract with one more method."""
    body = f"""\
  rpc Extra{rpc} {{
    {head}
    option (isthmus.options.v1.method) = {{ {MARK}
      {options}
    }};
  }}
  rpc WatchOrders"""
    return sound("  rpc WatchOrders", body)


def promising(option: str) -> str:
    """The sound contract with a method of a workload that owns no group."""
    return SOUND + (
        "service StockService {\n"
        '  option (isthmus.options.v1.service) = {workload: "stock" owner: "a" runbook: "b"};\n'
        "  rpc Count(Order) returns (Order) {\n"
        f"    option (isthmus.options.v1.method) = {{ {MARK}\n"
        f"      timeout: {{seconds: 3}} {option} }};\n  }}\n}}\n"
    )


def field(declaration: str, more: str = "") -> str:
    """The sound contract with one more field in its entity, and more messages."""
    return (
        HEAD
        + SERVICE
        + ENTITY.replace("  string title", f"  {declaration} {MARK}\n  string title")
        + more
    )


def merged(declaration: str, merge: str, more: str = "") -> str:
    """A field with a merge rule."""
    return field(f"{declaration} [(isthmus.options.v1.field) = {{merge: {merge}}}];", more)


def own(field_or_option: str) -> str:
    """A message on its own, which MERGE_MESSAGE or MERGE_MAX refers to."""
    return f"message Part {{\n{field_or_option}\n}}\n"


PARTS = own("  int64 epoch = 1; double weight = 2; repeated string names = 3;")
RULED = own("  string a = 1 [(isthmus.options.v1.field).merge = MERGE_LATEST];")

OTHER_SERVICE = """\
service StockService {
  option (isthmus.options.v1.service) = { // HERE
    workload: "WORKLOAD" group: "GROUP" owner: "shop" runbook: "docs/stock.md"
  };
}
"""


def other_service(workload: str, group: str) -> str:
    """The sound contract with a second service."""
    return SOUND + OTHER_SERVICE.replace("WORKLOAD", workload).replace("GROUP", group)


ONE_REGION = 'home: HOME_ONE_REGION home_field: "home"'
HOME = "string home = 2 [(isthmus.options.v1.field).merge = MERGE_FIRST];"


def homed(options: str, fields: str, more: str = "") -> str:
    """The sound contract with a second entity."""
    return (
        SOUND
        + f"""\
message Item {{
  option (isthmus.options.v1.entity) = {{ group: "orders" key: "item_id" {options}
  }};
  string item_id = 1;
  {fields}
}}
{more}"""
    )


def resident(declaration: str, merge: str) -> str:
    """A field that stays in the home region."""
    scope = "scope: SCOPE_HOME_REGION"
    return f" {declaration} [(isthmus.options.v1.field) = {{merge: {merge} {scope}}}];"


PIN = resident("string pin = 9", "MERGE_LATEST")


def serving(options: str) -> str:
    """A service whose messages hold that entity."""
    return (
        "message Items { repeated Item items = 1; }\n"
        "service ItemService {\n"
        '  option (isthmus.options.v1.service) = {workload: "orders" owner: "a" runbook: "b"};\n'
        "  rpc PutItems(Items) returns (Items) {\n"
        f"    option (isthmus.options.v1.method) = {{ {MARK}\n"
        f"      timeout: {{seconds: 3}} {options} }};\n  }}\n}}\n"
    )


CASES: dict[str, Case] = {
    # Retries and deadlines.
    "retry_not_idempotent": Case(
        "RETRY_NOT_IDEMPOTENT",
        method("timeout: {seconds: 3} retry: {attempts: 2 per_try: {seconds: 1}}"),
        "option idempotency_level = IDEMPOTENT;",
    ),
    "retry_beyond_timeout": Case(
        "RETRY_BEYOND_TIMEOUT",
        method(
            "timeout: {seconds: 3} retry: {attempts: 4 per_try: {seconds: 1}}",
            head="option idempotency_level = IDEMPOTENT;",
        ),
        "per_try of at most 0.75 s",
    ),
    "retry_once": Case(
        "RETRY_INCOMPLETE",
        method(
            "timeout: {seconds: 3} retry: {attempts: 1 per_try: {seconds: 1}}",
            head="option idempotency_level = IDEMPOTENT;",
        ),
        "retry: {attempts: 3",
    ),
    "retry_without_per_try": Case(
        "RETRY_INCOMPLETE",
        method(
            "timeout: {seconds: 3} retry: {attempts: 3}",
            head="option idempotency_level = IDEMPOTENT;",
        ),
        "per_try: {seconds: 1}",
    ),
    "retry_on_stream": Case(
        "RETRY_ON_STREAM",
        method(
            "stream_max_age: {seconds: 9} retry: {attempts: 2 per_try: {seconds: 1}}",
            rpc="(stream Order) returns (Order)",
            head="option idempotency_level = IDEMPOTENT;",
        ),
        "leave retry out",
    ),
    "timeout_missing": Case(
        "TIMEOUT_MISSING", method('callers: {workloads: "orders"}'), "timeout: {seconds: 5}"
    ),
    "timeout_zero": Case("TIMEOUT_MISSING", method("timeout: {seconds: 0}"), "{seconds: 5}"),
    "max_age_on_unary": Case(
        "TIMEOUT_MISSING",
        method("timeout: {seconds: 3} stream_max_age: {seconds: 9}"),
        "write timeout instead",
    ),
    "timeout_on_stream": Case(
        "STREAM_LIMIT",
        method(
            "timeout: {seconds: 3} stream_max_age: {seconds: 9}",
            rpc="(Order) returns (stream Order)",
        ),
        "stream_max_age: {seconds: 3600}",
    ),
    "max_age_missing": Case(
        "STREAM_LIMIT",
        method("locality: LOCALITY_LOCAL", rpc="(stream Order) returns (Order)"),
        "stream_max_age: {seconds: 3600}",
    ),
    "max_age_zero": Case(
        "STREAM_LIMIT",
        method("stream_max_age: {}", rpc="(stream Order) returns (Order)"),
        "stream_max_age: {seconds: 5}",
    ),
    "timeout_below_dependency": Case(
        "TIMEOUT_BELOW_DEPENDENCY",
        sound(
            "option (isthmus.options.v1.method) = {",
            f"option (isthmus.options.v1.method) = {{ {MARK}",
        )
        + """\
service StockService {
  option (isthmus.options.v1.service) = {
    workload: "stock" owner: "shop" runbook: "docs/stock.md"
  };
  rpc Reserve(Order) returns (Order) {
    option (isthmus.options.v1.method) = {
      callers: {workloads: "orders"} timeout: {seconds: 4}
    };
  }
}
""",
        "write a timeout of at least 4 s",
    ),
    "retry_amplified": Case(
        "RETRY_AMPLIFIED",
        SOUND.replace(
            "option (isthmus.options.v1.method) = {",
            f"option (isthmus.options.v1.method) = {{ {MARK}",
            1,
        )
        + """\
service StockService {
  option (isthmus.options.v1.service) = {
    workload: "stock" owner: "shop" runbook: "docs/stock.md"
  };
  rpc Reserve(Order) returns (Order) {
    option idempotency_level = IDEMPOTENT;
    option (isthmus.options.v1.method) = {
      callers: {workloads: "orders"} timeout: {seconds: 2}
      retry: {attempts: 4 per_try: {nanos: 500000000}}
    };
  }
}
""",
        "leave retry out of all methods of the chain but one",
    ),
    # Callers and regions.
    "caller_unknown": Case(
        "CALLER_UNKNOWN",
        method('timeout: {seconds: 3} callers: {workloads: "nobody"}'),
        "write one of orders",
    ),
    "role_unspecified": Case(
        "ROLE_UNSPECIFIED",
        method("timeout: {seconds: 3} callers: {roles: ROLE_UNSPECIFIED}"),
        "write ROLE_OPERATOR",
    ),
    "role_unenrolled": Case(
        "ROLE_UNENROLLED",
        method("timeout: {seconds: 3} callers: {roles: ROLE_UNENROLLED}"),
        "write ROLE_DEVICE",
    ),
    "peers_not_pinned": Case(
        "PEERS_NOT_PINNED",
        method("timeout: {seconds: 3} callers: {peers: true}"),
        "locality: LOCALITY_PINNED",
    ),
    "pinned_through_edge": Case(
        "PINNED_THROUGH_EDGE",
        method("timeout: {seconds: 3} callers: {roles: ROLE_OPERATOR} locality: LOCALITY_PINNED"),
        "write LOCALITY_NEAREST",
    ),
    "failover_single_region": Case(
        "FAILOVER_SINGLE_REGION",
        sound(
            "option (isthmus.options.v1.method) = {",
            f"option (isthmus.options.v1.method) = {{ {MARK}",
        ),
        "add a region to mesh.yaml",
        regions=1,
    ),
    # What methods promise of a group's data.
    "session_without_group": Case(
        "PROMISE_WITHOUT_GROUP",
        promising("consistency: CONSISTENCY_SESSION"),
        "declare a group",
    ),
    "durability_without_group": Case(
        "PROMISE_WITHOUT_GROUP", promising("durability: DURABILITY_MAJORITY"), "leave it out"
    ),
    "session_on_stream": Case(
        "PROMISE_ON_STREAM",
        method(
            "stream_max_age: {seconds: 9} consistency: CONSISTENCY_SESSION",
            rpc="(Order) returns (stream Order)",
        ),
        "begins with a snapshot",
    ),
    # Services and groups.
    "no_workload": Case(
        "SERVICE_INCOMPLETE",
        SOUND + f"service S {{ option (isthmus.options.v1.service) = {{ {MARK}\n"
        'owner: "a" runbook: "b" }; }\n',
        "workload such as",
    ),
    "no_owner": Case(
        "SERVICE_INCOMPLETE",
        SOUND + f"service S {{ option (isthmus.options.v1.service) = {{ {MARK}\n"
        'workload: "a" runbook: "b" }; }\n',
        "owner such as",
    ),
    "no_runbook": Case(
        "SERVICE_INCOMPLETE",
        SOUND + f"service S {{ option (isthmus.options.v1.service) = {{ {MARK}\n"
        'workload: "a" owner: "b" }; }\n',
        "runbook such as",
    ),
    "group_on_platform": Case(
        "GROUP_ON_PLATFORM", other_service("*", "stock"), "name the one workload"
    ),
    "group_shared": Case(
        "GROUP_SHARED", other_service("stock", "orders"), 'serve CASE.StockService from "orders"'
    ),
    "group_second": Case("GROUP_SECOND", other_service("orders", "stock"), 'write group: "orders"'),
    "group_unknown": Case(
        "GROUP_UNKNOWN",
        SOUND + "message Item {\n"
        f'  option (isthmus.options.v1.entity) = {{group: "ghost" key: "id"}}; {MARK}\n'
        "  string id = 1;\n}\n",
        "there are: orders",
    ),
    # Entities.
    "key_missing": Case(
        "KEY_WRONG",
        SOUND + "message Item {\n"
        f'  option (isthmus.options.v1.entity) = {{group: "orders"}}; {MARK}\n}}\n',
        'write key: "..."',
    ),
    "key_no_field": Case(
        "KEY_WRONG",
        SOUND + "message Item {\n"
        f'  option (isthmus.options.v1.entity) = {{group: "orders" key: "id"}}; {MARK}\n}}\n',
        'write key: "..."',
    ),
    "key_no_string": Case(
        "KEY_WRONG",
        SOUND + "message Item {\n"
        '  option (isthmus.options.v1.entity) = {group: "orders" key: "id"};\n'
        f"  int64 id = 7; {MARK}\n}}\n",
        "`string id = 7;`",
    ),
    "key_optional": Case(
        "KEY_WRONG",
        SOUND + "message Item {\n"
        '  option (isthmus.options.v1.entity) = {group: "orders" key: "id"};\n'
        f"  optional string id = 1; {MARK}\n}}\n",
        "`string id = 1;`",
    ),
    "key_with_rule": Case(
        "KEY_WITH_RULE",
        sound(
            "string order_id = 1;",
            f"string order_id = 1 [(isthmus.options.v1.field).merge = MERGE_LATEST]; {MARK}",
        ),
        "leave the (isthmus.options.v1.field) option out",
    ),
    "rule_missing": Case(
        "MERGE_RULE_MISSING", field("string note = 9;"), "(isthmus.options.v1.field).merge"
    ),
    "rule_unspecified": Case(
        "MERGE_RULE_MISSING", merged("string note = 9", "MERGE_UNSPECIFIED"), "MERGE_LATEST"
    ),
    "rule_missing_below": Case(
        "MERGE_RULE_MISSING",
        merged("Part part = 9", "MERGE_MESSAGE", own(f"  string a = 1; {MARK}")).replace(
            f"}}]; {MARK}", "}];"
        ),
        "(isthmus.options.v1.field).merge",
    ),
    "oneof_bare": Case(
        "ONEOF_BARE",
        field("oneof way { string a = 8; } "),
        "wrap the oneof in a message",
    ),
    "scope_without_home": Case(
        "SCOPE_WITHOUT_HOME",
        field(
            "string note = 9 [(isthmus.options.v1.field) = "
            "{merge: MERGE_LATEST scope: SCOPE_HOME_REGION}];"
        ),
        "write home: HOME_ONE_REGION",
    ),
    "home_unnamed": Case(
        "HOME_FIELD", homed(f"home: HOME_ONE_REGION {MARK}", HOME), 'home_field: "home"'
    ),
    "home_ghost": Case(
        "HOME_FIELD",
        homed(f'home: HOME_ONE_REGION home_field: "ghost" {MARK}', HOME),
        "MERGE_FIRST]",
    ),
    "home_field_of_latest": Case(
        "HOME_FIELD",
        homed(ONE_REGION, f"{HOME.replace('FIRST', 'LATEST')} {MARK}"),
        "`string home = 2 [(isthmus.options.v1.field).merge = MERGE_FIRST]`",
    ),
    "home_field_without_home": Case(
        "HOME_FIELD", homed(f'home_field: "home" {MARK}', HOME), "add home: HOME_ONE_REGION"
    ),
    "scope_of_kept_both": Case(
        "SCOPE_MERGE",
        homed(ONE_REGION, HOME + resident("string pin = 9", "MERGE_KEEP_BOTH") + MARK),
        "write MERGE_LATEST",
    ),
    "scope_of_a_bounded_counter_below": Case(
        "SCOPE_MERGE",
        homed(
            ONE_REGION,
            HOME + resident("Part part = 9", "MERGE_MESSAGE"),
            own(
                "  int64 n = 1 [(isthmus.options.v1.field) = "
                f"{{merge: MERGE_BOUNDED_COUNTER at_least: 0}}]; {MARK}"
            ),
        ),
        "write MERGE_LATEST",
    ),
    "locality_home_of_none": Case(
        "HOME_NAMED", method("timeout: {seconds: 3} locality: LOCALITY_HOME"), "HOME_ONE_REGION"
    ),
    "locality_home_of_many": Case(
        "HOME_NAMED",
        homed(ONE_REGION, HOME, serving("locality: LOCALITY_HOME")),
        "called as the key",
    ),
    "locality_home_of_a_stream": Case(
        "HOME_NAMED",
        homed(
            ONE_REGION,
            HOME,
            serving("locality: LOCALITY_HOME")
            .replace("timeout:", "stream_max_age:")
            .replace("returns (Items)", "returns (stream Item)"),
        ),
        "LOCALITY_LOCAL or LOCALITY_PINNED",
    ),
    "scope_carried_home": Case(
        "SCOPE_LOCALITY",
        homed(
            ONE_REGION,
            HOME + PIN,
            serving("locality: LOCALITY_HOME").replace("PutItems(Items)", "PutItems(Item)"),
        ),
        "write LOCALITY_LOCAL",
    ),
    "scope_carried_to_the_nearest": Case(
        "SCOPE_LOCALITY",
        homed(ONE_REGION, HOME + PIN, serving("locality: LOCALITY_NEAREST")),
        "write LOCALITY_LOCAL",
    ),
    "scope_in_one_peer": Case(
        "SCOPE_DURABILITY",
        homed(ONE_REGION, HOME + PIN, serving("durability: DURABILITY_ONE_PEER")),
        "leave durability out",
    ),
    "rule_outside_entity": Case(
        "MERGE_RULE_OUTSIDE_ENTITY",
        SOUND + own(f"  string a = 1 [(isthmus.options.v1.field).merge = MERGE_LATEST]; {MARK}"),
        "mark the message as an entity",
    ),
    # Merge rules and types.
    "counter_of_uint32": Case(
        "MERGE_COUNTER_TYPE", merged("uint32 n = 9", "MERGE_COUNTER"), "`int64 n = 9`"
    ),
    "counter_optional": Case(
        "MERGE_COUNTER_TYPE", merged("optional int64 n = 9", "MERGE_COUNTER"), "`int64 n = 9`"
    ),
    "bounded_uint32": Case(
        "MERGE_COUNTER_TYPE",
        merged("uint32 n = 9", "MERGE_BOUNDED_COUNTER at_least: 0"),
        "`int64 n = 9`",
    ),
    "bounded_without_bound": Case(
        "MERGE_BOUND", merged("int64 n = 9", "MERGE_BOUNDED_COUNTER"), "at_least: 0"
    ),
    "bounded_below_zero": Case(
        "MERGE_BOUND", merged("int64 n = 9", "MERGE_BOUNDED_COUNTER at_least: -1"), "what is left"
    ),
    "bound_of_counter": Case(
        "MERGE_BOUND", merged("int64 n = 9", "MERGE_COUNTER at_least: 0"), "leave at_least out"
    ),
    "set_of_one": Case("MERGE_SET_TYPE", merged("string a = 9", "MERGE_SET"), "repeated string"),
    "set_of_messages": Case(
        "MERGE_SET_TYPE", merged("repeated Part a = 9", "MERGE_SET", PARTS), "an entity"
    ),
    "set_of_doubles": Case(
        "MERGE_SET_TYPE", merged("repeated double a = 9", "MERGE_SET"), "or integer"
    ),
    "set_of_map": Case(
        "MERGE_SET_TYPE", merged("map<string, string> a = 9", "MERGE_SET"), "MERGE_LATEST"
    ),
    "max_of_double": Case(
        "MERGE_ORDER_TYPE", merged("double a = 9", "MERGE_MAX"), "an integer in a fixed unit"
    ),
    "max_of_list": Case("MERGE_ORDER_TYPE", merged("repeated int64 a = 9", "MERGE_MAX"), "integer"),
    "max_without_order": Case(
        "MERGE_ORDER_TYPE", merged("Part a = 9", "MERGE_MAX", PARTS), "order_by: ["
    ),
    "min_of_plain_scalar": Case(
        "MERGE_MIN_UNSET", merged("int64 a = 9", "MERGE_MIN"), "`optional int64 a = 9`"
    ),
    "map_of_list": Case(
        "MERGE_MAP_TYPE", merged("repeated Part a = 9", "MERGE_MAP", PARTS), "map<string"
    ),
    "order_by_ghost": Case(
        "MERGE_ORDER_BY", merged("Part a = 9", 'MERGE_MAX order_by: "ghost"', PARTS), "CASE.Part"
    ),
    "order_by_double": Case(
        "MERGE_ORDER_BY", merged("Part a = 9", 'MERGE_MAX order_by: "weight"', PARTS), "integer"
    ),
    "order_by_list": Case(
        "MERGE_ORDER_BY", merged("Part a = 9", 'MERGE_MAX order_by: "names"', PARTS), "integer"
    ),
    "order_by_on_latest": Case(
        "MERGE_ORDER_BY",
        merged("Part a = 9", 'MERGE_LATEST order_by: "epoch"', PARTS),
        "leave order_by out",
    ),
    "message_of_scalar": Case(
        "MERGE_MESSAGE_TYPE", merged("string a = 9", "MERGE_MESSAGE"), "write MERGE_LATEST"
    ),
    "message_repeated": Case(
        "MERGE_MESSAGE_TYPE",
        merged("repeated Part a = 9", "MERGE_MESSAGE", PARTS),
        "write MERGE_LATEST",
    ),
    "message_of_timestamp": Case(
        "MERGE_MESSAGE_TYPE",
        merged("google.protobuf.Timestamp a = 9", "MERGE_MESSAGE"),
        "write MERGE_LATEST",
    ),
    "message_of_entity": Case(
        "MERGE_MESSAGE_TYPE", merged("Order a = 9", "MERGE_MESSAGE"), "the entity's key"
    ),
    "message_recursive": Case(
        "MERGE_RECURSION",
        merged(
            "Part a = 9",
            "MERGE_MESSAGE",
            own(f"  Part next = 1 [(isthmus.options.v1.field).merge = MERGE_MESSAGE]; {MARK}"),
        ).replace(f"}}]; {MARK}", "}];"),
        "refer to it by key",
    ),
    "rate_limit": Case(
        "RATE_LIMIT_INCOMPLETE",
        method("timeout: {seconds: 3} rate_limit: {burst: 1}"),
        "rate_limit: {per_second: 100 burst: 20}",
    ),
}

Sets = dict[str, descriptor_pb2.FileDescriptorSet]


@pytest.fixture(scope="module")
def sets() -> Sets:
    """Every case, compiled by one run of protoc."""
    return compiled({name: case.text for name, case in CASES.items()})


@pytest.mark.refuses("Role.ROLE_UNSPECIFIED", "Merge.MERGE_UNSPECIFIED")
@pytest.mark.parametrize("name", CASES)
def test_a_wrong_contract_is_refused_with_file_line_and_remedy(name: str, sets: Sets) -> None:
    case = CASES[name]
    with pytest.raises(ContractError) as refused:
        read(sets[name], regions=case.regions)
    findings = refused.value.findings
    assert {finding.rule for finding in findings} == {case.rule}, findings
    finding = next(finding for finding in findings if finding.rule == case.rule)
    marked = [n for n, line in enumerate(case.text.splitlines(), 1) if MARK in line]
    assert (finding.file, [finding.line]) == (f"{name}.proto", marked)
    assert case.remedy.replace("CASE", name) in finding.remedy
    assert f"{name}.proto:{marked[0]}: " in str(refused.value)


def test_every_rule_that_a_proto_file_can_break_has_a_case() -> None:
    shown_elsewhere = {"OPTION_UNKNOWN", "NOT_SUPPORTED_YET"} | {rule.id for rule in bindings.RULES}
    assert {rule.id for rule in RULES} == {case.rule for case in CASES.values()} | shown_elsewhere


def test_what_nothing_enforces_yet_is_refused() -> None:
    text = method("timeout: {seconds: 3} rate_limit: {per_second: 1}")
    rows = {"MethodContract.rate_limit": Row(Support.NOT_YET)}
    instead = {"MethodContract.rate_limit": "leave rate_limit out"}
    with (
        patch.dict(support.ROWS, rows),  # type: ignore[arg-type] # read-only for all others
        patch.dict(support.INSTEAD, instead),  # type: ignore[arg-type] # as above
        pytest.raises(ContractError) as refused,
    ):
        read(compiled({"case": text})["case"])
    (finding,) = refused.value.findings
    assert finding.rule == "NOT_SUPPORTED_YET" and "leave rate_limit out" in finding.remedy


def test_rules_have_distinct_ids_and_a_sentence() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert all(rule.purpose.endswith(".") for rule in RULES)
