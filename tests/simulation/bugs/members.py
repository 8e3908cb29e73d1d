"""Bugs of members and the home of decisions that the simulation must find; see `bugs`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from mesh.replication import residency
from mesh.replication.core import (
    decisions,
)
from mesh.replication.core.durable import Durable
from mesh.replication.core.frames import Frame
from mesh.replication.core.journal import Journal
from mesh.replication.core.members import Members, State
from mesh.replication.membership import ENTITY, Membership
from mesh.replication.schema import FieldSchema
from tests.simulation.bugs.registry import bug


@bug
def a_home_waits_for_its_former_lives_whatever_it_decided() -> Iterator[None]:
    real = Membership._check_former_lives

    def check(self: Membership, table: Members) -> None:
        real(self, replace(table, incarnation=0))

    with patch.object(Membership, "_check_former_lives", check):
        yield


@bug
def what_an_evicted_region_wrote_alone_is_dropped() -> Iterator[None]:
    real = Journal.take

    def take(self: Journal, frame: Frame) -> bool:
        if self.members.of(frame.origin.region).state is State.JOINING:
            return False
        return real(self, frame)

    with patch.object(Journal, "take", take):
        yield


@bug
def a_readmitted_region_counts_by_what_it_said_before() -> Iterator[None]:
    def decided(self: Durable, table: Any, vector: Any) -> None:
        self._members = table

    with patch.object(Durable, "decided", decided):
        yield


@bug
def an_evicted_region_is_linked() -> Iterator[None]:
    with patch.object(Members, "check_link", lambda self, region: None):
        yield


@bug
def a_former_home_is_not_fenced() -> Iterator[None]:
    def rank(self: Any, message: Any) -> bytes:
        if self.entity != ENTITY.name:
            return real(self, message)
        return bytes([message.table.version % 256, message.table.generation % 256])

    real = FieldSchema.rank
    with patch.object(FieldSchema, "rank", rank):
        yield


@bug
def a_region_that_leaves_goes_on_writing() -> Iterator[None]:
    with patch.object(Members, "writes", lambda self, region: True):
        yield


@bug
def a_region_has_left_before_the_others_have_what_it_wrote() -> Iterator[None]:
    always = patch.object(decisions, "handed_over", lambda *_: True)
    with always, patch.object(decisions, "covers", lambda *_: True):
        yield


@bug
def who_left_is_not_looked_at_any_more() -> Iterator[None]:
    real = decisions.follow_up

    def follow_up(table: Members, regions: Any, has: Any, words: Any, by: Any) -> Members:
        heard = {name: word for name, word in words.items() if table.remembered(name)}
        return real(table, regions, has, heard, by)

    with patch.object(decisions, "follow_up", follow_up):
        yield


@bug
def a_word_that_was_under_way_counts_for_a_readmission() -> Iterator[None]:
    real = Durable.acknowledged

    def acknowledged(self: Durable, peer: str, vector: Any) -> None:
        real(self, peer, vector)
        self._first.setdefault(peer, dict(vector))

    with patch.object(Durable, "acknowledged", acknowledged):
        yield


@bug
def two_days_begin_two_tables_of_members() -> Iterator[None]:
    with patch.object(residency, "MEMBERS", ("", "")):
        yield
