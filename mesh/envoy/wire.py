"""Protobuf's binary form, as far as it takes to put encoded messages into others.

Apart from `mesh.envoy.encode`: who serves resources that were encoded before needs none of Envoy's
classes, which cost a process a second and 50 MB.
"""

from __future__ import annotations

LENGTH = 2
"""The wire type of what says its length."""


def tagged(number: int, value: bytes) -> bytes:
    """A length-delimited field: tag, length, value."""
    return varint(number << 3 | LENGTH) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """A number in base 128; a negative one as its two's complement in 64 bits."""
    value &= (1 << 64) - 1
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
