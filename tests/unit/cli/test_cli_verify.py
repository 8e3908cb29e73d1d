"""What `isthmus verify` makes of what regions say."""

from __future__ import annotations

from datetime import timedelta

from isthmus.mesh.v1.status_pb2 import GetStatusResponse, GroupStatus
from isthmus.replication.v1 import digest_pb2, member_pb2

from mesh.cli import verify
from mesh.cli.proofs import pairs, soundness
from mesh.cli.standing import Standing

MINUTE = timedelta(minutes=1)


def status(region: str, **peers: tuple[int, float] | None) -> Standing:
    """A region that has compared itself: with each peer up to a sequence of eu, and when."""
    group = GroupStatus(group="channels")
    for peer, proof in peers.items():
        pair = group.pairs.add(peer=peer, ranges_compared=3)
        if proof is not None:
            position = pair.equal_up_to.positions.add(sequence=proof[0])
            position.origin.region, position.origin.incarnation = "eu", 7
            pair.equal_up_to.positions.add(sequence=9).origin.region = region
            pair.age.FromTimedelta(timedelta(seconds=proof[1]))
    return Standing(region, "channels", GetStatusResponse(group=group))


def test_a_pair_is_equal_up_to_what_both_have_proven() -> None:
    (pair,) = pairs([status("eu", us=(12, 1)), status("us", eu=(10, 5))])
    assert pair.regions == ("eu", "us") and pair.equal_up_to == {("eu", 7): 10}
    assert pair.age == timedelta(seconds=5) and pair.ranges_compared == 6
    assert pair.proven(MINUTE) and not pair.proven(timedelta(seconds=4))
    assert verify._up_to(pair) == "eu 10"


def test_one_side_alone_proves_nothing() -> None:
    (pair,) = pairs([status("eu", us=(12, 1)), status("us", eu=None)])
    assert not pair.proven(MINUTE) and pair.problem == "us has not compared all with eu yet"
    silent = Standing("us", "channels", None, "it is down")
    (pair,) = pairs([status("eu", us=(12, 1)), silent])
    assert not pair.proven(MINUTE) and pair.problem == "us does not answer"
    assert verify._why(pair, MINUTE) == "us does not answer"


def test_pairs_may_be_limited_to_a_region_and_leave_out_who_was_evicted() -> None:
    standings = [
        status("ap", eu=(1, 1), us=(1, 1)),
        status("eu", ap=(1, 1), us=(1, 1)),
        status("us", ap=(1, 1), eu=(1, 1)),
    ]
    assert [p.regions for p in pairs(standings)] == [("ap", "eu"), ("ap", "us"), ("eu", "us")]
    assert [p.regions for p in pairs(standings, "eu")] == [("ap", "eu"), ("eu", "us")]
    assert standings[0].status is not None
    us = standings[0].status.group.members.members.add()
    us.member.region, us.member.state = "us", member_pb2.MEMBER_STATE_EVICTED
    assert [p.regions for p in pairs(standings)] == [("ap", "eu")]


def test_damage_is_said_in_words() -> None:
    standing = status("eu")
    assert standing.status is not None
    told = standing.status.group.integrity
    told.found, told.repaired, told.memory_passes, told.disk_passes = 2, 1, 5, 4
    mended = told.corruptions.add(
        kind=digest_pb2.CORRUPTION_KIND_MEMORY, detail="its state in memory is not what was hashed"
    )
    mended.entity.type, mended.entity.key = "isthmus.channels.v1.Channel", "news"
    mended.found.seconds, mended.repaired.seconds = 60, 61
    left = told.corruptions.add(detail="it does not follow from the one before it")
    left.frame.origin.region, left.frame.origin.incarnation, left.frame.sequence = "us", 3, 41
    left.found.seconds = 60
    (found,) = soundness([standing])
    assert (found.region, found.found, found.repaired) == ("eu", 2, 1)
    assert verify._sentence(found.corruptions[0]) == (
        "repaired after 1.0 s: isthmus.channels.v1.Channel news: its state in memory is not what "
        "was hashed (found 1970-01-01 00:01:00)"
    )
    assert verify._sentence(found.corruptions[1]) == (
        "NOT REPAIRED: frame us#3 at 41: it does not follow from the one before it "
        "(found 1970-01-01 00:01:00)"
    )
