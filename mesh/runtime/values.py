"""Values of requests: protovalidate's rules, as violations by field path."""

from __future__ import annotations

import protovalidate
from google.protobuf.message import Message


class Validation:
    """Checks messages; keep one, since it compiles each type's rules once."""

    def __init__(self) -> None:
        self._validator = protovalidate.Validator()

    def violations(self, message: Message) -> dict[str, str]:
        """What is wrong, by the path of the field; empty if nothing is."""
        found: dict[str, str] = {}
        for violation in self._validator.collect_violations(message):
            path = _path(violation)
            text = violation.proto.message or violation.proto.rule_id
            found[path] = f"{found[path]}, {text}" if path in found else text
        return found


def _path(violation: protovalidate.Violation) -> str:
    field = violation.proto.field
    parts = [
        element.field_name + (f"[{element.subscript.value}]" if element.subscript else "")
        for element in (field.elements if field else ())
    ]
    return ".".join(parts) or "(message)"
