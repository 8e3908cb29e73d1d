"""No edit that breaks somebody passes: each kind of edit at each place of a small contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from mesh.compat import sources
from mesh.compat.engine import compare
from mesh.compat.pair import Pair, Side
from mesh.compat.verdicts import Verdict
from mesh.compat.wire import wire
from tests.unit.compat.shops import FIXTURES

_Type = descriptor_pb2.FieldDescriptorProto
_OTHER = {_Type.TYPE_STRING: _Type.TYPE_BYTES, _Type.TYPE_INT64: _Type.TYPE_INT32}
_OTHER |= {_Type.TYPE_INT32: _Type.TYPE_STRING, _Type.TYPE_BYTES: _Type.TYPE_STRING}


@cache
def base() -> Side:
    return sources.read(FIXTURES / "OWNER_CHANGED" / "previous")


def _parts(file: descriptor_pb2.FileDescriptorProto, kind: str) -> list[tuple[Any, int]]:
    """The lists that hold such parts, with the place of each part."""
    owners: dict[str, list[Any]] = {
        "field": [message.field for message in file.message_type],
        "value": [enum.value for enum in file.enum_type],
        "method": [service.method for service in file.service],
    }
    return [(parts, at) for parts in owners[kind] for at in range(len(parts))]


def _delete(parts: Any, at: int) -> None:
    del parts[at]


def _retype(parts: Any, at: int) -> None:
    if parts[at].type in _OTHER:
        parts[at].type = _OTHER[parts[at].type]
    else:
        parts[at].number += 500


def _renumber(parts: Any, at: int) -> None:
    parts[at].number += 500


def _rename(parts: Any, at: int) -> None:
    parts[at].name += "_other"


def _stream(parts: Any, at: int) -> None:
    parts[at].server_streaming = not parts[at].server_streaming


_EDITS: tuple[tuple[str, Callable[[Any, int], None]], ...] = (
    ("field", _delete),
    ("field", _retype),
    ("field", _renumber),
    ("field", _rename),
    ("value", _delete),
    ("value", _rename),
    ("method", _delete),
    ("method", _rename),
    ("method", _stream),
)


def _mutants(kind: str, edit: Callable[[Any, int], None]) -> Iterator[tuple[str, Side]]:
    (shop,) = (at for at, file in enumerate(base().image.file) if file.name == "shop.proto")
    for index in range(len(_parts(base().image.file[shop], kind))):
        image = descriptor_pb2.FileDescriptorSet()
        image.CopyFrom(base().image)
        parts, at = _parts(image.file[shop], kind)[index]
        name = parts[at].name
        if kind == "value" and at == 0 and edit is _delete:
            continue  # an enum begins with zero
        edit(parts, at)
        yield name, Side("mutant", image)


@pytest.mark.parametrize(("kind", "edit"), _EDITS)
def test_what_breaks_is_breaking(kind: str, edit: Callable[[Any, int], None]) -> None:
    tried = 0
    for name, mutant in _mutants(kind, edit):
        pair = Pair(base(), mutant)
        verdicts = {found.verdict for found in (*compare(pair), *wire(pair))}
        assert Verdict.BREAKING in verdicts, name
        tried += 1
    assert tried > 2
