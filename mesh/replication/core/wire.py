"""Protobuf's wire primitives: varints, tags, and length-prefixed pieces (encoding.html).

Cells are stored and hashed in these, and entities are put together from them without a schema.
"""

from __future__ import annotations

from functools import lru_cache

from google.protobuf.message import DecodeError
from isthmus.replication.v1 import frame_pb2

from mesh.replication.core.errors import ChainBroken

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_SMALL = tuple(bytes([n]) for n in range(128))


def varint(value: int) -> bytes:
    """An unsigned integer of up to 64 bits; negative ones as two's complement."""
    if 0 <= value < 128:
        return _SMALL[value]
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The integer at a position, and the position after it. Raises `ChainBroken` if cut off."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ChainBroken("a cell is damaged: it ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                raise ChainBroken("a cell is damaged: a number in it has more than 64 bits")
            return value, at
        shift += 7


def piece(data: bytes) -> bytes:
    """Bytes with their length before them."""
    return varint(len(data)) + data


def read_piece(data: bytes, at: int) -> tuple[bytes, int]:
    """The piece at a position, and the position after it. Raises `ChainBroken` if cut off."""
    size, at = read_varint(data, at)
    if at + size > len(data):
        raise ChainBroken("a cell is damaged: it is shorter than it says")
    return data[at : at + size], at + size


def text(value: str) -> bytes:
    """A string as a piece of UTF-8."""
    return piece(value.encode())


def read_text(data: bytes, at: int) -> tuple[str, int]:
    """The string at a position, and the position after it."""
    raw, at = read_piece(data, at)
    try:
        return raw.decode(), at
    except UnicodeDecodeError:
        raise ChainBroken("a cell is damaged: its text is not UTF-8") from None


def check_field(data: bytes, number: int) -> None:
    """Raises `ChainBroken` unless bytes are whole encodings, one or more or none, of one field.

    What is inside a length-prefixed value is not looked at: only a schema knows whether that is a
    text, bytes or a message. Groups are refused; proto3 has none.
    """
    at, size = 0, len(data)
    if size > 1 and data[0] == number << 3 | LENGTH and data[1] == size - 2 < 128:
        return  # One short text or message, as most values are: the quick way.
    while at < size:
        key, at = read_varint(data, at)
        wire_type = key & 7
        if key >> 3 != number:
            raise ChainBroken(f"a cell is damaged: field {key >> 3} in the place of {number}")
        if wire_type == LENGTH:
            length, at = read_varint(data, at)
            at += length
        elif wire_type == VARINT:
            _, at = read_varint(data, at)
        elif wire_type in (FIXED64, FIXED32):
            at += 8 if wire_type == FIXED64 else 4
        else:
            raise ChainBroken(f"a cell is damaged: wire type {wire_type} holds no value")
    if at > size:
        raise ChainBroken("a cell is damaged: it is shorter than it says")


def check_message(data: bytes) -> None:
    """Raises `ChainBroken` unless bytes are a message, of whatever fields."""
    try:
        frame_pb2.Content.FromString(data)
    except DecodeError:
        raise ChainBroken("a cell is damaged: its content is no message") from None


def tag(number: int, wire_type: int) -> bytes:
    """A field's tag."""
    return varint(number << 3 | wire_type)


@lru_cache(maxsize=4096)
def numbers(path: bytes) -> tuple[int, ...]:
    """The field numbers of a path, which are consecutive varints."""
    found = []
    at = 0
    while at < len(path):
        number, at = read_varint(path, at)
        found.append(number)
    return tuple(found)
