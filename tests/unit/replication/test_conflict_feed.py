"""Conflicts as others see them: in a group's feed, without what is not to be shown, and bounded."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from isthmus.options.v1 import options_pb2
from isthmus.replication.v1 import feed_pb2_grpc

from mesh.replication import (
    Batch,
    ConflictView,
    FeedServicer,
    Snapshot,
    Value,
    conflicts,
    follow_feed,
)
from mesh.replication.core.cells import LATEST, Stamp, Version
from mesh.replication.core.conflicts import DELETED, Conflict
from mesh.replication.core.wire import piece
from mesh.replication.schema import GroupSchema
from mesh.replication.store import conflicts as kept_conflicts
from tests.support.homes import PERSON, Person, class_of, contract
from tests.support.merging import Thing
from tests.unit.replication.test_group_conflicts import open_group, write

STAMP = Stamp(5 << 16, "eu", 1)


async def test_a_feed_shows_conflicts_with_the_changes_that_showed_them(tmp_path: Path) -> None:
    group = await open_group(tmp_path)
    server = grpc.aio.server()
    feed_pb2_grpc.add_FeedServiceServicer_to_server(FeedServicer(group), server)
    server.add_insecure_port(f"unix:{tmp_path}/feed.sock")
    await server.start()
    try:
        await write(group, lambda tx: tx.create(Thing(id="t", note="one")))
        etag = group.etag(Thing, "t")
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/feed.sock") as channel:
            events = follow_feed(channel, [Thing])
            assert isinstance(await anext(events), Snapshot)
            await write(group, lambda tx: tx.set(Thing(id="t", note="two"), "note"))
            await write(group, lambda tx: tx.set(Thing(id="t", note="three"), "note", etag=etag))
            quiet, noted = await anext(events), await anext(events)
            await events.aclose()
        assert isinstance(quiet, Batch) and isinstance(noted, Batch)
        assert quiet.conflicts == ()
        assert [change.new.message.note for change in noted.changes] == ["three"]
        assert list(noted.conflicts) == group.conflicts()
        assert noted.conflicts[0].other.message.note == "two"
    finally:
        await group.leave()
        await server.stop(None)
        await group.close()


def _secretive() -> type[Message]:
    """A message with fields that are marked, at the top and further in."""
    file = descriptor_pb2.FileDescriptorProto(
        name="isthmus/tests/secretive.proto", package="isthmus.tests", syntax="proto3"
    )
    inner = file.message_type.add(name="Inner")
    inner.field.add(name="shown", number=1, type=9, label=1)
    inner.field.add(name="hidden", number=2, type=9, label=1).options.debug_redact = True
    outer = file.message_type.add(name="Secretive")
    outer.field.add(name="hidden", number=1, type=9, label=1).options.debug_redact = True
    outer.field.add(name="inner", number=2, type=11, label=1, type_name=".isthmus.tests.Inner")
    stays = outer.field.add(name="stays", number=3, type=9, label=1)
    stays.options.Extensions[options_pb2.field].scope = options_pb2.SCOPE_HOME_REGION
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("isthmus.tests.Secretive"))


def test_what_is_marked_or_unknown_or_stays_at_home_is_not_shown() -> None:
    secretive = _secretive()
    message = secretive(hidden="s1", stays="s2")
    message.inner.shown, message.inner.hidden = "seen", "s3"
    # Field 99, of a newer contract that may mark it.
    message.MergeFromString(b"\x9a\x06\x02s4")
    view = ConflictView(
        "t", "k", 1, "", "DELETE", Value(None, None, secretive()), Value(None, 7, message)
    )
    shown = conflicts.to_proto(view)
    assert list(shown.other.redacted) == ["hidden", "inner.hidden", "stays"]
    assert not any(secret in shown.SerializeToString() for secret in (b"s1", b"s2", b"s3", b"s4"))
    read = conflicts.from_proto(shown, secretive)
    assert read.other.message.inner.shown == "seen"
    assert read.other.redacted == ("hidden", "inner.hidden", "stays")
    assert (read.other.time_ms, read.other.origin) == (7, None)
    assert message.hidden == "s1"  # the group's own is as it was


def test_fields_that_stay_at_home_are_in_no_view() -> None:
    schema = GroupSchema(contract().group_entities("persons"), class_of).entities[PERSON]
    (pin,) = (f.path for f in schema.fields.values() if schema.name_of(f.path) == "pin")
    assert pin in schema.resident
    told = Person(title="shown", pin=b"secret")
    told.papers.kind, told.papers.passport = "kind", b"secret"
    value = Version(STAMP, told.SerializeToString())
    found = [
        Conflict((PERSON, "p"), 1, pin, LATEST, value, value),
        Conflict((PERSON, "p"), 1, b"", DELETED, Version(STAMP, b""), value),
        Conflict(("isthmus.tests.Unknown", "p"), 1, b"", DELETED, value, value),
    ]
    (view,) = conflicts.views(found, {PERSON: schema})
    assert view.rule == "DELETE"
    assert (view.other.message.title, view.other.message.papers.kind) == ("shown", "kind")
    assert b"secret" not in view.other.message.SerializeToString()


def _conflict(number: int, size: int) -> Conflict:
    value = Version(STAMP, piece(bytes(size)))
    return Conflict((PERSON, f"p{number}"), 1, b"\3", LATEST, value, value)


def test_what_is_kept_is_bounded_by_number_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_conflicts, "KEPT", 20)
    monkeypatch.setattr(kept_conflicts, "KEPT_BYTES", 10_000)
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(kept_conflicts.TABLES)
    cursor = connection.cursor()

    def kept() -> list[str]:
        return [c.entity[1] for c in kept_conflicts.kept(connection, None, 100)]

    kept_conflicts.keep(cursor, [_conflict(number, 1) for number in range(30)])
    assert kept() == [f"p{number}" for number in reversed(range(10, 30))]
    kept_conflicts.keep(cursor, [_conflict(number, 1000) for number in range(30, 34)])
    assert kept()[:5] == ["p33", "p32", "p31", "p30", "p29"]
    kept_conflicts.keep(cursor, [_conflict(34, 2000)])
    assert kept() == ["p34", "p33", "p32"]
    connection.close()


def test_what_is_shown_at_once_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = GroupSchema(contract().group_entities("persons"), class_of).entities[PERSON]
    monkeypatch.setattr(conflicts, "NEWEST_BYTES", 5000)
    found = [_conflict(number, 1000) for number in range(9)]
    assert len(list(conflicts.views(found, {PERSON: schema}))) == 2
    assert len(list(conflicts.views([_conflict(0, 9000)], {PERSON: schema}))) == 1
