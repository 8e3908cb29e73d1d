"""Opening what a group holds in one region: its store, recovered, and the journal above it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mesh.contracts.model import Contract
from mesh.replication.core.entities import EntityKey
from mesh.replication.core.journal import Journal
from mesh.replication.core.life import SALT_BITS
from mesh.replication.core.parked import Known
from mesh.replication.core.signatures import Keyring, Signing
from mesh.replication.membership import ENTITY as MEMBERS
from mesh.replication.schema import ClassOf, GroupSchema
from mesh.replication.store import Store
from mesh.replication.store.sqlite import SqliteStore


class Opened(NamedTuple):
    """A group as it was found; `unflushed` are entities whose stored state is behind."""

    store: Store
    schema: GroupSchema
    journal: Journal
    unflushed: Iterable[EntityKey]


async def open_group(
    contract: Contract,
    name: str,
    region: str,
    peers: Iterable[str],
    folder: Path,
    now_ms: int,
    *,
    home: str,
    class_of: ClassOf,
    known: Known,
    signing: Signing | None,
) -> Opened:
    """Opens and recovers a group; see `Group.open`. Raises `SchemaError` and `StoreError`."""
    schema = GroupSchema((*contract.group_entities(name), MEMBERS), class_of)
    digest = contract.group_digests.get(name, b"")
    store = await asyncio.to_thread(
        SqliteStore, folder, name, region, digest, schema.history_types, known
    )
    try:
        remembered = await asyncio.to_thread(store.resident_fields, schema.resident_fields)
        schema.keep(remembered)
        recovered = await asyncio.to_thread(store.recover)
    except BaseException:
        store.close()
        raise
    keys = Keyring(name, signing, recovered.keys)
    # The time alone may come again, with a clock that is set back and a disk that is lost.
    salt = secrets.randbits(SALT_BITS)
    process = secrets.randbits(64)
    journal = Journal(region, peers, digest, recovered, now_ms, salt, home, known, keys, process)
    return Opened(store, schema, journal, recovered.replayed)
