"""The rules as buf tells them: the real buf, with the plugin, on each rule's fixtures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from mesh.compat import sources, wire
from mesh.compat.rules import RULES
from mesh.contracts.compiling import BUF_IS_IMPORT

FIXTURES = Path(__file__).parents[2] / "compat"
PLUGIN = [sys.executable, "-m", "mesh.compat.buf_plugin.main"]
CONFIG = json.dumps(
    {"version": "v2", "plugins": [{"plugin": PLUGIN}], "breaking": {"use": ["ISTHMUS"]}}
)


def image(folder: Path, into: Path, *, unknown: bool = False) -> Path:
    found = sources.read(folder).image
    for file in found.file:
        if not file.name.startswith("shop"):
            file.MergeFromString(BUF_IS_IMPORT)
        elif unknown:  # option 51905 of a newer Isthmus
            file.message_type[0].options.MergeFromString(b"\x88\xac\x19\x01")
    into.write_bytes(found.SerializeToString())
    return into


def buf(new: Path, old: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [wire.BUF, "breaking", new, "--against", old, "--config", CONFIG, "--error-format=json"],
        cwd=new.parent,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("rule", [rule.id for rule in RULES])
def test_buf_tells_what_stops_and_nothing_else(rule: str, tmp_path: Path) -> None:
    folder = FIXTURES / rule
    new = image(folder / "current", tmp_path / "new.binpb")
    old = image(folder / "previous", tmp_path / "old.binpb")
    done = buf(new, old)
    told = {
        (each["type"], f"{each['path']}:{each['start_line']}")
        for each in map(json.loads, done.stdout.splitlines())
    }
    ours = {each.id for each in RULES}
    assert told == {
        (each["rule"], each["at"])
        for each in json.loads((folder / "expected.json").read_text())
        if each["rule"] in ours and (each["verdict"] == "breaking" or each["approval"])
    }
    assert done.returncode == (100 if told else 0), done.stderr


def test_options_of_a_newer_isthmus_fail(tmp_path: Path) -> None:
    folder = FIXTURES / RULES[0].id
    old = image(folder / "previous", tmp_path / "old.binpb")
    new = image(folder / "current", tmp_path / "new.binpb", unknown=True)
    done = buf(new, old)
    assert done.returncode == 1
    assert "options of a newer Isthmus" in done.stderr


def test_no_rule_has_a_name_of_bufs() -> None:
    assert not wire.rules() & {rule.id for rule in RULES}


def run(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*PLUGIN, *arguments], input=data, capture_output=True, check=False)


def test_it_speaks_json_too() -> None:
    spec = json.loads(run("--spec", "--format", "json").stdout)
    paths = [each["path"] for each in spec["procedures"]]
    assert "/buf.plugin.check.v1.CheckService/Check" in paths
    (rules,) = [path for path in paths if path.endswith("/ListRules")]
    answer = json.loads(run(rules, "--format", "json").stdout)
    assert {each["id"] for each in answer["value"]["rules"]} == {rule.id for rule in RULES}


@pytest.mark.parametrize("data", [b"nonsense", b"\x0a\x03\x0a\x01x"])
def test_what_is_no_request_is_an_error_in_the_answer(data: bytes) -> None:
    done = run("/buf.plugin.check.v1.CheckService/Check", data=data)
    assert done.returncode == 0
    # Field 2 of the answer: the error.
    assert done.stdout.startswith(b"\x12")


@pytest.mark.parametrize("arguments", [[], ["check"], ["--spec", "--format", "xml"]])
def test_a_person_who_runs_it_is_told_what_it_is(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert b"buf-plugin-isthmus: " in done.stderr
    assert not done.stdout


def test_the_image_is_whole(tmp_path: Path) -> None:
    """What the helper above writes is what buf would be given."""
    path = image(FIXTURES / RULES[0].id / "current", tmp_path / "new.binpb")
    assert descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file
