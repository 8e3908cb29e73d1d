"""Options that nothing enforces are refused, and so are those that this Isthmus does not know."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from mesh.contracts.option_uses import OptionUse, holders, uses
from mesh.contracts.rules.rule import Problem, Rule, Subject
from mesh.contracts.support import INSTEAD, ROWS, Support

_OPTIONS_PACKAGE = "isthmus.options.v1."
# Extension numbers that belong to Isthmus, those of its future versions included.
_OUR_NUMBERS = range(51901, 51921)


def _not_yet(subject: Subject) -> Iterator[Problem]:
    for use in uses(subject.schema):
        for name, path in _set_names(use.value, ()):
            row = ROWS.get(name)
            if row is not None and row.support is Support.NOT_YET and name in INSTEAD:
                yield Problem(
                    use.source.at(use.number, *path),
                    f"{use.owner}: {name.partition('.')[2]} is not supported yet",
                    f"{INSTEAD[name]}; docs/contract-options.md lists what is enforced",
                )


def _unknown(subject: Subject) -> Iterator[Problem]:
    for use in uses(subject.schema):
        for what, path in _unknown_parts(use.value, ()):
            yield _newer(use, what, path)
    for owner, options, source in holders(subject.schema):
        for number in _unknown_numbers(options):
            if number in _OUR_NUMBERS:
                yield Problem(
                    source.at(number),
                    f"{owner}: option {number} is not known to this Isthmus",
                    "install the Isthmus that defines it, or leave the option out",
                )


def _newer(use: OptionUse, what: str, path: tuple[int, ...]) -> Problem:
    return Problem(
        use.source.at(use.number, *path),
        f"{use.owner}: {what} is not known to this Isthmus",
        "install the Isthmus that defines it, or leave it out: it would not be enforced",
    )


def _set_names(message: Message, path: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """``Message.field`` and ``Enum.VALUE`` of all that is set, with its option path."""
    for field, value in message.ListFields():
        here = (*path, field.number)
        yield f"{message.DESCRIPTOR.name}.{field.name}", here
        for item in _items(field, value):
            if field.enum_type is not None:
                named = field.enum_type.values_by_number.get(item)
                if named is not None:
                    yield f"{field.enum_type.name}.{named.name}", here
            elif _is_ours(field):
                yield from _set_names(item, here)


def _unknown_parts(
    message: Message, path: tuple[int, ...]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Field numbers and enum values that options.proto, as built in, does not have."""
    for number in _unknown_numbers(message):
        yield f"field {number} of {message.DESCRIPTOR.name}", (*path, number)
    for field, value in message.ListFields():
        here = (*path, field.number)
        for item in _items(field, value):
            if field.enum_type is not None:
                if item not in field.enum_type.values_by_number:
                    yield f"value {item} of {field.enum_type.name}", here
            elif _is_ours(field):
                yield from _unknown_parts(item, here)


def _unknown_numbers(message: Message) -> list[int]:
    fields = UnknownFieldSet(message)
    return [fields[index].field_number for index in range(len(fields))]


def _items(field: FieldDescriptor, value: object) -> list:  # type: ignore[type-arg]  # any value
    return list(value) if field.is_repeated else [value]  # type: ignore[call-overload]  # a list


def _is_ours(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.full_name.startswith(
        _OPTIONS_PACKAGE
    )


RULES = (
    Rule("NOT_SUPPORTED_YET", "An option or value must be enforced by something.", _not_yet),
    Rule("OPTION_UNKNOWN", "An option of a newer Isthmus must not be ignored.", _unknown),
)
