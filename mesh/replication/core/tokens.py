"""Session tokens: what a client has seen of each group, small enough for a call's metadata.

A region that has a token's changes, under causal delivery, also has all that those depend on. So a
token need not name what another of its positions implies: mostly one position is left of a vector,
however many regions there are. With tokens that clients carry from call to call, all four session
guarantees hold across regions (Terry et al., "Session Guarantees for Weakly Consistent Replicated
Data", 1994).
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import DecodeError
from isthmus.replication.v1 import token_pb2

from mesh.replication.core.clocks import Origin, Vector, vector_from_proto, vector_to_proto
from mesh.replication.core.errors import TokenDamaged

Token = Mapping[str, Vector]
"""By group, what was seen."""


def reduced(vector: Mapping[Origin, int], implied: Mapping[Origin, int]) -> Vector:
    """A vector without the positions that others of it imply.

    `implied` is the most of each origin that any change of another, within the vector, depends on.
    """
    return {
        origin: sequence for origin, sequence in vector.items() if implied.get(origin, 0) < sequence
    }


def merged(one: Token, other: Token) -> dict[str, Vector]:
    """The token of who has seen both."""
    result = {group: dict(vector) for group, vector in one.items()}
    for group, vector in other.items():
        mine = result.setdefault(group, {})
        for origin, sequence in vector.items():
            mine[origin] = max(sequence, mine.get(origin, 0))
    return result


def encode(token: Token) -> bytes:
    """The bytes of a token."""
    return token_pb2.Token(
        groups=[
            token_pb2.SeenGroup(group=group, vector=vector_to_proto(vector))
            for group, vector in sorted(token.items())
        ]
    ).SerializeToString(deterministic=True)


def decode(data: bytes) -> dict[str, Vector]:
    """The token of bytes that a client sent; several, one after the other, are merged.

    Raises `TokenDamaged`.
    """
    try:
        message = token_pb2.Token.FromString(data)
    except DecodeError:
        raise TokenDamaged("it is no token: send back what a response carried, or none") from None
    result: dict[str, Vector] = {}
    for seen in message.groups:
        result = merged(result, {seen.group: vector_from_proto(seen.vector)})
    return result
