"""Ranks compare as bytes the way their values compare."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from isthmus.channels.v1 import channel_pb2
from isthmus.devices.v1 import device_pb2

from mesh.replication.schema import rank

UINT64 = channel_pb2.Assignment.DESCRIPTOR.fields_by_name["epoch"]
STRING = channel_pb2.Assignment.DESCRIPTOR.fields_by_name["region"]
INT64 = device_pb2.Device.DESCRIPTOR.fields_by_name["encoder_restarts"]
DOUBLE = device_pb2.Encoding.DESCRIPTOR.fields_by_name["speed"]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_unsigned(a: int, b: int) -> None:
    assert (rank(UINT64, a) < rank(UINT64, b)) == (a < b)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_signed(a: int, b: int) -> None:
    assert (rank(INT64, a) < rank(INT64, b)) == (a < b)


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_floats(a: float, b: float) -> None:
    # The two zeros are equal and have different ranks: an order among equals harms nothing.
    if a != b:
        assert (rank(DOUBLE, a) < rank(DOUBLE, b)) == (a < b)


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_strings_one_after_the_other(a: tuple[str, str], b: tuple[str, str]) -> None:
    def ranked(pair: tuple[str, str]) -> bytes:
        return rank(STRING, pair[0]) + rank(STRING, pair[1])

    def raw(pair: tuple[str, str]) -> tuple[bytes, bytes]:
        return pair[0].encode(), pair[1].encode()

    assert (ranked(a) < ranked(b)) == (raw(a) < raw(b))
