"""What a region keeps for a newer version or contract: shown in its status, and logged once."""

from __future__ import annotations

import logging

from google.protobuf.timestamp_pb2 import Timestamp
from isthmus.replication.v1 import link_pb2

from mesh.replication.core.batches import Visible
from mesh.replication.core.journal import Journal
from mesh.replication.core.parked import NO_TYPE, Unread
from mesh.replication.schema import GroupSchema

_log = logging.getLogger("isthmus.replication")


class Parked:
    """Follows what a group holds that this region cannot read.

    `foreign` counts the living entities of message types that its contract does not know, `beside`
    what is no entity of its own: changes of unknown kinds, which are kept beside theirs.
    """

    def __init__(self, name: str, journal: Journal, schema: GroupSchema) -> None:
        self._name = name
        self._journal = journal
        self._schema = schema
        self._logged: set[tuple[str, bytes, int, int]] = set()
        self.foreign = sum(
            not state.deleted
            for entity, state in journal.committed.items()
            if self._is_foreign(entity[0])
        )
        self.beside = sum(type == NO_TYPE for type, _ in journal.committed)
        self._log_new()

    def look(self, visible: Visible) -> None:
        """Takes note of a commit."""
        # One without frames brings a snapshot, of whatever there is.
        if not visible.frames or any(frame.parked for frame in visible.frames):
            self._log_new()
            before = visible.before.items()
            self.beside += sum(type == NO_TYPE and old is None for (type, _), old in before)
        # Who has the same contract knows the same types.
        own = self._journal.contract_digest
        if visible.frames and all(frame.contract_digest == own for frame in visible.frames):
            return
        for entity, old in visible.before.items():
            if self._is_foreign(entity[0]):
                self.foreign += (old is None or old.deleted) - visible.after[entity].deleted

    def status(self) -> list[link_pb2.ParkedChanges]:
        """What is parked, by type, field and rule."""
        return [self._message(each) for each in self._journal.unread()]

    def _is_foreign(self, type: str) -> bool:
        return type not in self._schema.entities and type != NO_TYPE

    def _field(self, each: Unread) -> str:
        schema = self._schema.entities.get(each.type)
        if schema is None or not each.path:
            return ".".join(map(str, each.numbers))
        return schema.name_of(each.path)

    def _message(self, each: Unread) -> link_pb2.ParkedChanges:
        message = link_pb2.ParkedChanges(
            type=each.type,
            field=self._field(each),
            rule=each.rule,
            kind=each.kind,
            changes=each.changes,
            entities=each.entities,
            entity=each.entity,
        )
        if each.since_ms is not None:
            since = Timestamp()
            since.FromMilliseconds(each.since_ms)
            message.since.CopyFrom(since)
        return message

    def _log_new(self) -> None:
        for each in self._journal.unread():
            at = (each.type, each.path, each.rule, each.kind)
            if at not in self._logged:
                self._logged.add(at)
                _log.warning(
                    "group %s: changes of %s are parked until this region runs a version that "
                    "reads %s: first of %r",
                    self._name,
                    f"{each.type} {self._field(each)}".strip(),
                    f"merge rule {each.rule}" if each.rule else f"changes of kind {each.kind}",
                    each.entity,
                )
