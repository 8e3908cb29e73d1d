"""Replication between regions: a group of entities that every region reads and writes alone."""

from mesh.replication.core.clocks import Origin
from mesh.replication.errors import (
    AlreadyExists,
    EtagDamaged,
    GroupClosed,
    NotFound,
    NotReplicated,
    OriginChanged,
    ReplicationError,
    RequestIdReused,
    StoreError,
    StoreFull,
    WatcherTooSlow,
    WriteError,
    WriteNotStored,
)
from mesh.replication.feed import FeedServicer, follow_feed
from mesh.replication.group import Applied, Group
from mesh.replication.serve import LinkServicer
from mesh.replication.transaction import Transaction
from mesh.replication.views import (
    Batch,
    ChangeRecord,
    ConflictView,
    EntityChange,
    LastChange,
    Reach,
    ReachChanged,
    Snapshot,
    Value,
    View,
    WatchEvent,
    WriteContext,
)

__all__ = [
    "AlreadyExists",
    "Applied",
    "Batch",
    "ChangeRecord",
    "ConflictView",
    "EntityChange",
    "EtagDamaged",
    "FeedServicer",
    "Group",
    "GroupClosed",
    "LastChange",
    "LinkServicer",
    "NotFound",
    "NotReplicated",
    "Origin",
    "OriginChanged",
    "Reach",
    "ReachChanged",
    "ReplicationError",
    "RequestIdReused",
    "Snapshot",
    "StoreError",
    "StoreFull",
    "Transaction",
    "Value",
    "View",
    "WatchEvent",
    "WatcherTooSlow",
    "WriteContext",
    "WriteError",
    "WriteNotStored",
    "follow_feed",
]
