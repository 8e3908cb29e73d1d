"""Wire rules: the real `buf breaking`, and verdicts that heed what a message is for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

from mesh.compat.engine import Change, change
from mesh.compat.errors import GateError, ToolMissing
from mesh.compat.pair import FOREIGN, Pair
from mesh.compat.places import Places
from mesh.compat.roles import Role
from mesh.compat.rules.rule import Found
from mesh.compat.verdicts import Verdict
from mesh.contracts.compiling import BUF_IS_IMPORT
from mesh.contracts.model import Location
from mesh.contracts.schema import MessageNode

BUF = Path(sys.executable).parent / "buf"
_VIOLATIONS = 100
# Rules of buf that a rule of ours judges with more knowledge.
JUDGED_ELSEWHERE = {
    "RPC_NO_DELETE": "METHOD_REMOVED",
    "RPC_SAME_IDEMPOTENCY_LEVEL": "IDEMPOTENCY_CHANGED",
}
_CONFIG = json.dumps(
    {
        "version": "v2",
        "breaking": {
            "use": [
                "FILE",
                "FIELD_NO_DELETE_UNLESS_NAME_RESERVED",
                "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED",
                "ENUM_VALUE_NO_DELETE_UNLESS_NAME_RESERVED",
                "ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED",
            ],
            "except": sorted(JUDGED_ELSEWHERE),
        },
    }
)
_KEPT = dict.fromkeys((Role.PEER, Role.STORED, Role.REPLICATED, Role.POLICY), Verdict.BREAKING)
# By what a message is for; each other rule of buf is breaking, whatever the message is for.
_BY_ROLE: Mapping[str, Mapping[Role, Verdict]] = {
    "FIELD_NO_DELETE": {
        Role.REQUEST: Verdict.CALLERS_FIRST,
        Role.RESPONSE: Verdict.CALLERS_FIRST,
        **_KEPT,
    },
    "ENUM_VALUE_NO_DELETE": {
        Role.REQUEST: Verdict.CALLERS_FIRST,
        Role.RESPONSE: Verdict.SERVERS_FIRST,
        **_KEPT,
    },
}
_WIDENED = {Role.REQUEST: Verdict.SERVERS_FIRST, Role.RESPONSE: Verdict.CALLERS_FIRST, **_KEPT}
_WIDER = {("int32", "int64"), ("uint32", "uint64"), ("sint32", "sint64")}
_REMEDY = {
    Verdict.CALLERS_FIRST: "have callers in every region do without it first",
    Verdict.SERVERS_FIRST: "roll out servers in every region first",
    Verdict.BREAKING: "keep it as it was, and add what is new beside it",
}
_DELETED = re.compile(r'^Previously present (field|enum value) "(-?\d+)"')


def wire(pair: Pair) -> Iterator[Change]:
    """What buf says of two versions. Raises `GateError` if it cannot."""
    places = Places(pair.new.image)
    for line in _run(pair):
        found = json.loads(line)
        where = places.at(found.get("path", ""), found.get("start_line"), found.get("start_column"))
        if not (pair.stored and _of_calls(pair, found["type"], where)):
            yield change(found["type"], _judged(pair, found, where), pair.old.name)


def _of_calls(pair: Pair, rule: str, where: str) -> bool:
    """Whether it is about calls alone, which do not matter to what is stored."""
    if rule.startswith(("RPC_", "SERVICE_")):
        return True
    known = {**pair.new.messages, **pair.new.enums}
    owner = where if where in known else where.rpartition(".")[0]
    return owner in known and not pair.roles(owner)


def rules() -> frozenset[str]:
    """The identifiers of buf's rules. Raises `ToolMissing`, `GateError`."""
    done = subprocess.run(
        [_buf(), "config", "ls-breaking-rules", "--version", "v2", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise GateError(f"buf does not list its rules: {done.stderr.strip()}")
    return frozenset(json.loads(line)["id"] for line in done.stdout.splitlines())


def _judged(pair: Pair, found: Mapping[str, Any], where: str) -> Found:
    subject = _deleted(pair, found["message"], where) or where or found.get("path", "contract")
    verdict = _verdict(pair, found["type"], where)
    return Found(
        subject,
        found["message"].rstrip("."),
        verdict,
        "reserve its number and its name" if "RESERVED" in found["type"] else _REMEDY[verdict],
        Location(found.get("path", ""), found.get("start_line", 1)),
    )


def _deleted(pair: Pair, message: str, where: str) -> str:
    """The full name of the field or value of which buf says that it is gone."""
    said = _DELETED.match(message)
    owner = pair.old.messages.get(where) or pair.old.enums.get(where)
    if said is None or owner is None:
        return ""
    parts = owner.fields if isinstance(owner, MessageNode) else owner.values
    gone = [part.full_name for part in parts if part.proto.number == int(said[2])]
    return "/".join(gone)


def _verdict(pair: Pair, rule: str, where: str) -> Verdict:
    if rule == "FIELD_SAME_TYPE":
        message, _, name = where.rpartition(".")
        before, after = pair.old.messages.get(message), pair.new.messages.get(message)
        new = after.field(name) if after is not None else None
        old = before.field(name) if before is not None else None
        if old is None or new is None or (old.type, new.type) not in _WIDER:
            return Verdict.BREAKING
        # In JSON 64 bits are a string, and 32 a number.
        if message in pair.old.json | pair.new.json or pair.stored:
            return Verdict.BREAKING
        return pair.by_roles(message, _WIDENED) or Verdict.BREAKING
    if rule in _BY_ROLE and not pair.stored and where in {**pair.new.messages, **pair.new.enums}:
        return pair.by_roles(where, _BY_ROLE[rule]) or Verdict.BREAKING
    return Verdict.BREAKING


def _run(pair: Pair) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="isthmus-") as scratch:
        new, old = Path(scratch) / "new.binpb", Path(scratch) / "old.binpb"
        new.write_bytes(_image(pair.new.image))
        old.write_bytes(_image(pair.old.image))
        command = [
            _buf(),
            "breaking",
            str(new),
            "--against",
            str(old),
            "--config",
            _CONFIG,
            "--error-format=json",
            "--exclude-imports",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=scratch)
    if done.returncode not in (0, _VIOLATIONS) or bool(done.stdout) != bool(done.returncode):
        raise GateError(
            f"buf breaking failed against {pair.old.name} with {done.returncode}: "
            f"{(done.stderr or done.stdout).strip()[:2000]}"
        )
    return done.stdout.splitlines()


def _buf() -> str:
    if not BUF.is_file():
        raise ToolMissing(f"{BUF} is missing: pip install 'isthmus[gate]'")
    return str(BUF)


def _image(image: descriptor_pb2.FileDescriptorSet) -> bytes:
    """As buf reads it: the standard library's files are imports, and nothing else is."""
    result = descriptor_pb2.FileDescriptorSet()
    for file in image.file:
        kept = result.file.add()
        kept.CopyFrom(file)
        kept.DiscardUnknownFields()
        if file.name.startswith(FOREIGN):
            kept.MergeFromString(BUF_IS_IMPORT)
    return result.SerializeToString(deterministic=True)
