"""`google.api.http`: how a method is called as JSON over plain HTTP.

The grammar of path templates is that of google/api/http.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from google.api import annotations_pb2, http_pb2

from mesh.contracts.model import Binding
from mesh.contracts.schema import MethodNode

HTTP: int = annotations_pb2.http.number
"""The number of the option."""

_LITERAL = r"[A-Za-z0-9_.~-]+"
_NAME = r"[a-z][a-z0-9_]*"
_VARIABLE = rf"\{{({_NAME}(?:\.{_NAME})*)(?:=((?:{_LITERAL}|\*\*?)(?:/(?:{_LITERAL}|\*\*?))*))?\}}"
_PATH = re.compile(rf"(?:/(?:{_LITERAL}|{_VARIABLE}))+(?::{_LITERAL})?")
_FIND = re.compile(_VARIABLE)


def rules(method: MethodNode) -> Iterator[http_pb2.HttpRule]:
    """The rule that a method declares, then its additional ones."""
    if method.proto.options.HasExtension(annotations_pb2.http):
        rule = method.proto.options.Extensions[annotations_pb2.http]
        yield rule
        yield from rule.additional_bindings


def bindings(method: MethodNode) -> tuple[Binding, ...]:
    """The same as typed values. A rule without a verb has an empty one."""
    return tuple(_binding(rule) for rule in rules(method))


def well_formed(path: str) -> bool:
    """Whether a path template keeps to the grammar."""
    return _PATH.fullmatch(path) is not None


def variables(path: str) -> list[str]:
    """The fields that a path template sets, in its order: ``channel_id``, ``source.url``."""
    return [match[1] for match in _FIND.finditer(path)]


def shape(path: str) -> str:
    """What two paths have in common that no request can tell apart."""
    return _FIND.sub(lambda match: match[2] or "*", path)


def _binding(rule: http_pb2.HttpRule) -> Binding:
    verb = rule.WhichOneof("pattern") or ""
    path = rule.custom.path if verb == "custom" else getattr(rule, verb) if verb else ""
    return Binding(verb.upper(), path, rule.body)
