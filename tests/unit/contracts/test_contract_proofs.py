"""Every option of the contract is shown to work by a test with real processes, or to be refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.unknown_fields import UnknownFieldSet

from mesh.contracts import table
from mesh.contracts.read import descriptors
from mesh.contracts.support import ROWS, STANDARD, Support
from tests.support.proofs import TESTS, claims, faults

_METHODS, _ENTITIES = "tests/e2e/test_contract_methods.py", "tests/e2e/test_contract_entities.py"
WHERE = {
    "ServiceContract": "tests/e2e/test_cli_operations.py",
    "MethodContract": _METHODS,
    "Callers": "tests/e2e/test_policy.py",
    "Role": "tests/e2e/test_policy.py",
    "Retry": _METHODS,
    "RateLimit": _METHODS,
    "Locality": _METHODS,
    "Consistency": _ENTITIES,
    "Durability": _ENTITIES,
    "EntityContract": _ENTITIES,
    "Home": _ENTITIES,
    "FieldContract": _ENTITIES,
    "Merge": _ENTITIES,
    "Scope": _ENTITIES,
    "idempotency_level": _METHODS,
    "debug_redact": _ENTITIES,
    "buf": "tests/e2e/test_cli_operations.py",
    "google": "tests/e2e/test_edge_ways.py",
}
"""In which file the tests are, by the part of the option's name before the dot."""
_VALIDATE = 1159


def declared() -> set[str]:
    """All that options.proto declares, and the standard options."""
    names = {f"{owner}.{name}" for owner, names in table.declared() for name in names}
    return names | set(STANDARD)


def test_each_option_is_proven_or_refused() -> None:
    refused = {name for name, row in ROWS.items() if row.support is not Support.ENFORCED}
    wrong = faults(declared() - refused, refused, claims(), WHERE)
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_files_to_write_in_exist() -> None:
    assert {option.partition(".")[0] for option in declared()} == set(WHERE)
    for file in WHERE.values():
        assert (TESTS.parent / file).is_file(), file


def test_nothing_that_an_extension_reaches_is_left_out() -> None:
    """Options that are messages inside messages too, wherever those are declared."""
    owners = {owner for owner, _ in table.declared()}
    (file,) = (f for f in descriptors().file if f.name == "isthmus/options/v1/options.proto")
    for declaration in [*file.extension, *(f for m in file.message_type for f in m.field)]:
        if declaration.type_name.startswith(".isthmus."):
            reached = declaration.type_name.removeprefix(".isthmus.options.v1.")
            assert reached in owners, declaration.name


def test_no_other_standard_option_is_used_unproven() -> None:
    """What the project's own contract sets is one of ours, one of those, or without effect."""
    without_effect = {"deprecated", "map_entry", "packed"}
    used: set[str] = set()
    for file in descriptors().file:
        if file.name.startswith("isthmus/") and "options" not in file.name:
            for service in file.service:
                used.update(*map(_options, (service, *service.method)))
            for message in file.message_type:
                used.update(_of_message(message))
    own = {f"isthmus.options.v1.{name}" for name in ("service", "method", "entity", "field")}
    assert used - without_effect == own | set(STANDARD)


def _of_message(message: descriptor_pb2.DescriptorProto) -> set[str]:
    parts = (message, *message.field, *message.oneof_decl)
    return set().union(*map(_options, parts), *map(_of_message, message.nested_type))


def _options(of: Any) -> set[str]:
    """The names of the options of a declaration; of protovalidate's it has numbers alone."""
    named = {f.full_name if f.is_extension else f.name for f, _ in of.options.ListFields()}
    numbered = {each.field_number for each in UnknownFieldSet(of.options)}
    assert numbered <= {_VALIDATE}
    found = {name for name in named if not name.startswith("buf.validate.")}
    return found | ({"buf.validate"} if numbered or found != named else set())


_TEST = """
import pytest
{module}

@pytest.mark.proves({option!r})
{more}
async def {name}(): ...
"""


def judged(folder: Path, option: str = "Retry.attempts", **changes: str) -> list[str]:
    """What is wrong if there is nothing but one test."""
    given = {"module": "pytestmark = [pytest.mark.e2e]", "more": "", "name": "test_it"} | changes
    (folder / "test_one.py").write_text(_TEST.format(option=option, **given))
    return faults({"Retry.attempts"}, {"Role.OLD"}, claims(folder), {"Retry": "there.py"})


def test_what_is_wrong_is_said_with_the_remedy(tmp_path: Path) -> None:
    unrefused = (
        "no test shows that Role.OLD is refused: write one in tests/unit/contracts/"
        'test_contract_refusals.py and mark it @pytest.mark.refuses("Role.OLD")'
    )
    unproven = (
        "no test shows that Retry.attempts is enforced: write one in there.py and mark it "
        '@pytest.mark.proves("Retry.attempts")'
    )
    assert judged(tmp_path) == [unrefused]
    assert judged(tmp_path, module="", more="@pytest.mark.e2e") == [unrefused]
    for changes, remedy in (
        ({"option": "Retry.atempts"}, "there is no such option"),
        ({"option": "Role.OLD"}, "mark the test of that with `refuses`"),
        ({"more": '@pytest.mark.skip(reason="slow")'}, "no test that runs"),
        ({"more": "@pytest.mark.xfail"}, "no test that runs"),
        ({"name": "helper"}, "no test that runs"),
    ):
        first, *others = judged(tmp_path, **changes)
        assert first.startswith(tmp_path.name + "/test_one.py::") and remedy in first
        assert sorted(others) == [unproven, unrefused]
    first, *_ = judged(tmp_path, module="")
    assert first.endswith("but starts nothing: move it to tests/e2e and mark it e2e")
