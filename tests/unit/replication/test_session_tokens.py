"""Session tokens: small, and enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.replication.core import tokens
from mesh.replication.core.clocks import Origin, covers
from mesh.replication.core.errors import TokenDamaged
from mesh.replication.core.frames import parse
from tests.support.regions import World
from tests.unit.replication.test_journal_core import create

EU, US, AP = Origin("eu", 1), Origin("us", 1), Origin("ap", 1)


def test_what_another_position_implies_is_left_out() -> None:
    vector = {EU: 5, US: 7, AP: 2}
    # Someone's change, within the vector, had seen eu up to 5 and us up to 6.
    assert tokens.reduced(vector, {EU: 5, US: 6}) == {US: 7, AP: 2}


def test_a_region_that_has_a_token_has_what_it_stands_for() -> None:
    names = [f"r{number}" for number in range(8)]
    world = World(*names)
    for step, name in enumerate(names * 3):
        world.regions[name].write(create(f"c{step}"), world.now_ms)
        world.run(300)
    world.settle()
    journal = world.regions["r0"].journal
    reduced = tokens.reduced(journal.vector, journal.implied)
    assert 1 <= len(reduced) < len(journal.vector) == len(names)
    # Whoever has the few positions, under causal delivery, has the whole vector.
    frames = [
        parse(stored.body, stored.hash)
        for stored in world.regions["r0"].log.frames
        if stored.origin in journal.vector
    ]
    has = dict(reduced)
    for frame in reversed(frames):  # the log is in a causal order
        if frame.last <= has.get(frame.origin, 0):
            has = tokens.merged({"": has}, {"": frame.dependencies})[""]
    assert has == journal.vector


def test_a_token_comes_back_as_it_was() -> None:
    token = {"channels": {EU: 5, US: 1 << 40}, "devices": {AP: 1}}
    assert tokens.decode(tokens.encode(token)) == token
    assert tokens.decode(b"") == {}
    with pytest.raises(TokenDamaged, match="send back what a response carried"):
        tokens.decode(b"\xff\xff")


vectors = st.dictionaries(st.sampled_from([EU, US, AP]), st.integers(1, 9))
seen = st.dictionaries(st.sampled_from(["channels", "devices"]), vectors)


@given(seen, seen, seen)
def test_merging_is_a_join(a: tokens.Token, b: tokens.Token, c: tokens.Token) -> None:
    assert tokens.merged(a, b) == tokens.merged(b, a)
    assert tokens.merged(tokens.merged(a, b), c) == tokens.merged(a, tokens.merged(b, c))
    assert tokens.merged(a, a) == a
    for group, vector in a.items():
        assert covers(tokens.merged(a, b)[group], vector)
