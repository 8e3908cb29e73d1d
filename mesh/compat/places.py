"""From a position in a file to the declaration that stands there."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf import descriptor_pb2

_Span = tuple[tuple[int, int], tuple[int, int]]


class Places:
    """The declarations of an image that kept its source positions."""

    def __init__(self, image: descriptor_pb2.FileDescriptorSet) -> None:
        self._spans: dict[str, list[tuple[_Span, str]]] = {
            file.name: list(_spans(file)) for file in image.file
        }

    def at(self, file: str, line: int | None, column: int | None) -> str:
        """The full name of the innermost declaration at a position (from 1); empty if none is."""
        if line is None or column is None:
            return ""
        here = (line - 1, column - 1)
        around = [
            (span, name) for span, name in self._spans.get(file, ()) if span[0] <= here < span[1]
        ]
        # The innermost one begins last; of those that begin together it ends first.
        return max(
            around,
            key=lambda each: (each[0][0], (-each[0][1][0], -each[0][1][1])),
            default=("", ""),
        )[1]


def _spans(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[_Span, str]]:
    names = dict(_names(file))
    for location in file.source_code_info.location:
        name = names.get(tuple(location.path))
        if name is not None:
            span = list(location.span)
            end = (span[0], span[2]) if len(span) == 3 else (span[2], span[3])
            yield ((span[0], span[1]), end), name


def _names(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    prefix = f"{file.package}." if file.package else ""
    for at, message in enumerate(file.message_type):
        yield from _of_message(message, prefix, (4, at))
    for at, enum in enumerate(file.enum_type):
        yield from _of_enum(enum, prefix, (5, at))
    for at, service in enumerate(file.service):
        yield (6, at), prefix + service.name
        for index, method in enumerate(service.method):
            yield (6, at, 2, index), f"{prefix}{service.name}/{method.name}"


def _of_message(
    message: descriptor_pb2.DescriptorProto, prefix: str, path: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], str]]:
    name = prefix + message.name
    yield path, name
    for at, field in enumerate(message.field):
        yield (*path, 2, at), f"{name}.{field.name}"
    for at, nested in enumerate(message.nested_type):
        yield from _of_message(nested, f"{name}.", (*path, 3, at))
    for at, enum in enumerate(message.enum_type):
        yield from _of_enum(enum, f"{name}.", (*path, 4, at))


def _of_enum(
    enum: descriptor_pb2.EnumDescriptorProto, prefix: str, path: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, prefix + enum.name
    for at, value in enumerate(enum.value):
        yield (*path, 2, at), f"{prefix}{enum.name}.{value.name}"
