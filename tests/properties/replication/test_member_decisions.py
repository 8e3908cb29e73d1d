"""Decisions about members, taken in any order and in several homes at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from isthmus.replication.v1 import member_pb2

from mesh.replication.core import decisions, members
from mesh.replication.core.clocks import Origin, Vector
from mesh.replication.core.decisions import Deciding, Word
from mesh.replication.core.errors import DecisionRefused
from mesh.replication.core.members import Members, State
from mesh.replication.membership import ENTITY
from mesh.replication.schema import GroupSchema

NAMES = ("ap", "eu", "us")
FOLLOWS = {
    (State.JOINED, State.LEAVING),
    (State.LEAVING, State.JOINED),
    (State.LEFT, State.JOINING),
    (State.JOINED, State.EVICTED),
    (State.LEAVING, State.EVICTED),
    (State.JOINING, State.EVICTED),
    (State.EVICTED, State.JOINING),
}

names = st.sampled_from(NAMES)
acts = st.sampled_from([decisions.join, decisions.leave, decisions.evict, decisions.rejoin])
vectors = st.dictionaries(
    st.builds(Origin, names, st.integers(1, 2)), st.integers(1, 3), max_size=4
)
TABLE = GroupSchema([ENTITY]).entities[ENTITY.name].fields["table"]


def by(positions: Vector) -> Deciding:
    return Deciding("operator/first", 1, positions, 7)


def rank(table: Members) -> bytes:
    return TABLE.rank(member_pb2.Members(key="members", table=members.to_proto(table)))


@given(st.lists(st.tuples(acts, names, vectors), max_size=12))
def test_decisions_follow_one_another_as_documented(steps) -> None:
    table = Members("eu")
    for act, region, positions in steps:
        before = table.of(region).state
        try:
            after = act(table, region, by(positions))
        except DecisionRefused:
            continue
        assert act(after, region, by({})) is after or before is State.LEAVING
        if after is not table:
            assert (before, after.of(region).state) in FOLLOWS
            assert after.rank > table.rank
            assert after.of(region).epoch == table.of(region).epoch + 1
        table = after
        assert table.of("eu").state is State.JOINED


@given(st.lists(st.tuples(acts, names, vectors), max_size=8))
def test_tables_survive_their_encoding(steps) -> None:
    table = Members("eu")
    for act, region, positions in steps:
        try:
            table = act(table, region, by(positions))
        except DecisionRefused:
            continue
    read = members.from_proto(members.to_proto(table))
    assert read == table
    assert [m.positions for m in read.decided.values()] == [
        table.decided[region].positions for region in read.decided
    ]


@given(
    st.lists(st.tuples(acts, names), max_size=6),
    st.lists(st.tuples(acts, names), max_size=6),
    st.sampled_from(["ap", "us"]),
    st.booleans(),
)
def test_what_a_former_home_decides_is_fenced(old, new, to, by_force) -> None:
    def go_on(table: Members, steps) -> Members:
        for act, region in steps:
            try:
                table = act(table, region, by({}))
            except DecisionRefused:
                continue
        return table

    start = Members("eu")
    former = go_on(start, old)
    home = decisions.take_home(start, to, by({})) if by_force else decisions.move_home(start, to)
    moved = go_on(home, new)
    assert moved.rank > former.rank
    assert rank(moved) > rank(former)


@given(st.lists(st.tuples(acts, names), max_size=6), vectors, vectors, vectors, vectors)
def test_nobody_joins_or_leaves_before_the_others_have_all_of_it(
    steps, home_has, eu_word, us_word, us_first
) -> None:
    table = Members("ap")
    for act, region in steps:
        try:
            table = act(table, region, by(us_first))
        except DecisionRefused:
            continue
    words = {
        "eu": Word(eu_word, eu_word, home_has),
        "us": Word(us_word, us_first, home_has),
    }
    after = decisions.follow_up(table, NAMES, home_has, words, by(home_has))
    for region, word in words.items():
        was, now = table.of(region), after.of(region)
        if was.state is now.state:
            continue
        own = {o: n for o, n in word.first.items() if o.region == region}
        if now.state is State.JOINED:
            assert was.state is State.JOINING
            assert all(home_has.get(o, 0) >= n for o, n in own.items())
            assert all(word.latest.get(o, 0) >= n for o, n in was.positions.items())
        elif now.state is State.EVICTED:
            assert was.state is State.LEFT
            mine = {o: n for o, n in word.latest.items() if o.region == region}
            assert any(home_has.get(o, 0) < n for o, n in mine.items())
        else:
            assert (was.state, now.state) == (State.LEAVING, State.LEFT)
            assert all(home_has.get(o, 0) >= n for o, n in word.latest.items())
            other = "eu" if region == "us" else "us"
            if after.holds(other) and table.holds(other):
                latest = words[other].latest
                mine = {o: n for o, n in word.latest.items() if o.region == region}
                assert all(latest.get(o, 0) >= n for o, n in mine.items())
