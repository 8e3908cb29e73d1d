"""The rows of stored states: clustered as the digest's buckets are, each with a checksum."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.replication.core.digest import bucket_of
from mesh.replication.core.entities import EntityKey, EntityState, checksum, encode

Row = tuple[int, str, str, bytes, bytes]
"""Bucket, type, key, canonical bytes, and the checksum of these and of the name."""


def state_row(entity: EntityKey, state: EntityState) -> Row:
    """The row of an entity."""
    return row_of(entity, encode(state))


def row_of(entity: EntityKey, canonical: bytes) -> Row:
    """The row of an entity of which the canonical bytes are at hand."""
    return bucket_of(entity), *entity, canonical, checksum(entity, canonical)


def state_rows(
    states: Mapping[EntityKey, EntityState], kept: Mapping[EntityKey, int]
) -> tuple[dict[EntityKey, Row], set[EntityKey]]:
    """The rows of entities, and those of which the state is not the one that was hashed."""
    rows: dict[EntityKey, Row] = {}
    refused: set[EntityKey] = set()
    for entity, state in states.items():
        row = state_row(entity, state)
        known = kept.get(entity)
        if known is None or known == int.from_bytes(row[4], "big"):
            rows[entity] = row
        else:
            refused.add(entity)
    return rows, refused
