"""Trials of revisions: who gets what, and when all have it."""

from __future__ import annotations

import pytest

from mesh.xds.delta import DeltaRequest, DeltaStream
from mesh.xds.fleet import Fleet, Instance, NoSuchInstance, Outcome, Revision, Session
from mesh.xds.kinds import CLUSTER, LISTENER
from tests.support.xds_clients import LIBRARY, DeltaClient, resource

A, B, C = Instance("eu", "a"), Instance("eu", "b"), Instance("us", "a")
ALL = (A, B, C)


def revision(name: str, content: int, instances: tuple[Instance, ...] = ALL) -> Revision:
    snapshot = LIBRARY.snapshot([resource(CLUSTER, "one", content)])
    return Revision(name, dict.fromkeys(instances, snapshot))


class Sidecar:
    """A client that is connected to a fleet, and speaks when it is told to."""

    def __init__(self, fleet: Fleet, instance: Instance) -> None:
        self.fleet = fleet
        self.client = DeltaClient()
        self.woken = 0
        self.connect(instance)

    def connect(self, instance: Instance) -> None:
        self.session: Session[DeltaStream] = self.fleet.connect(instance, DeltaStream, 5, self.wake)
        self.client.connect()

    def wake(self) -> None:
        self.woken += 1

    def run(self) -> None:
        while True:
            response = self.session.stream.poll()
            if response is not None:
                self.client.take(response)
            elif self.client.requests:
                self.session.stream.receive(self.client.requests.pop(0), 9)
                self.fleet.heard(self.session, 0)
            else:
                return

    def reconnect(self) -> None:
        self.fleet.disconnect(self.session)
        self.connect(self.session.instance)

    @property
    def content(self) -> str:
        return self.client.content()[CLUSTER]["one"]


def version(content: int) -> str:
    return resource(CLUSTER, "one", content).version


def test_all_have_a_revision_once_each_stream_has_said_so() -> None:
    fleet = Fleet(revision("r1", 1))
    sidecars = [Sidecar(fleet, each) for each in (A, A, B)]
    said: list[Outcome] = []
    watch = fleet.watch("r1", None, lambda: said.append(watch.outcome))
    for sidecar in sidecars:
        assert not said
        assert not watch.outcome.complete
        sidecar.run()
    assert watch.outcome == Outcome(frozenset({A, B}), frozenset(), {})
    assert said
    assert [(v.instance, v.revision, v.acknowledged) for v in fleet.views()] == [
        (A, "r1", "r1"),
        (A, "r1", "r1"),
        (B, "r1", "r1"),
    ]
    # Later, they have it from the beginning.
    assert fleet.watch("r1", [A, B], lambda: None).outcome.complete
    # Who is not connected has nothing.
    assert fleet.watch("r1", ALL, lambda: None).outcome.waiting == {C}


def test_a_change_that_is_none_for_a_sidecar_is_acknowledged_without_a_word() -> None:
    fleet = Fleet(revision("r1", 1))
    sidecar = Sidecar(fleet, A)
    sidecar.run()
    sent = len(sidecar.client.received)
    fleet.offer(revision("r2", 1))
    assert fleet.watch("r2", None, lambda: None).outcome.complete
    sidecar.run()
    assert len(sidecar.client.received) == sent


def test_a_stage_gets_it_first_and_withdrawing_brings_all_back() -> None:
    fleet = Fleet(revision("r1", 1))
    a, b = Sidecar(fleet, A), Sidecar(fleet, B)
    second = revision("r2", 2)
    fleet.offer(second, [A])
    for each in (a, b):
        each.run()
    assert (a.content, b.content) == (version(2), version(1))
    assert fleet.watch("r2", [A], lambda: None).outcome.complete
    assert fleet.watch("r2", [A, B], lambda: None).outcome.waiting == {B}
    fleet.offer(second)
    b.run()
    assert b.content == version(2)
    fleet.withdraw()
    for each in (a, b):
        each.run()
    assert (a.content, b.content) == (version(1), version(1))
    fleet.offer(second)
    fleet.confirm()
    for each in (a, b):
        each.run()
    assert fleet.good is second
    assert (a.content, b.content) == (version(2), version(2))


def test_who_comes_anew_gets_the_good_one_while_a_bad_one_is_rejected() -> None:
    fleet = Fleet(revision("r1", 1))
    a, b = Sidecar(fleet, A), Sidecar(fleet, B)
    a.run()
    b.run()
    a.client.bad = {version(2)}
    said: list[Outcome] = []
    watch = fleet.watch("r2", None, lambda: said.append(watch.outcome))
    fleet.offer(revision("r2", 2))
    b.run()
    a.run()
    assert (a.content, b.content) == (version(1), version(2))
    (rejection,) = said[-1].rejected.values()
    assert (rejection.text, rejection.time_ms, rejection.names) == ("bad: one", 9, ("one",))
    newcomer = Sidecar(fleet, C)
    newcomer.run()
    assert newcomer.content == version(1)
    # Who has it keeps it, who rejected it is not asked again.
    b.reconnect()
    b.run()
    a.reconnect()
    a.run()
    assert (a.content, b.content) == (version(1), version(2))
    # The next one is for all.
    fleet.offer(revision("r3", 3))
    for each in (a, b, newcomer):
        each.run()
        assert each.content == version(3)
    assert fleet.watch("r3", ALL, lambda: None).outcome.complete


def test_the_first_revision_goes_to_newcomers_although_it_was_rejected() -> None:
    fleet = Fleet(revision("r1", 1, (A,)))
    b = Sidecar(fleet, A)
    b.client.bad = {version(2)}
    fleet.offer(revision("r2", 2))
    b.run()
    newcomer = Sidecar(fleet, B)
    newcomer.run()
    assert newcomer.content == version(2)


def test_an_instance_that_no_revision_knows_is_refused() -> None:
    fleet = Fleet(revision("r1", 1, (A,)))
    with pytest.raises(NoSuchInstance, match="r1 has nothing for eu/b"):
        fleet.connect(B, DeltaStream, 0, lambda: None)


def test_an_instance_that_the_next_revision_leaves_out_keeps_what_it_has() -> None:
    fleet = Fleet(revision("r1", 1))
    a, b = Sidecar(fleet, A), Sidecar(fleet, B)
    a.run()
    b.run()
    fleet.offer(revision("r2", 2, (A,)))
    a.run()
    b.run()
    assert (a.content, b.content) == (version(2), version(1))


def test_nothing_is_acknowledged_before_listeners_were_asked_for() -> None:
    """A sidecar that starts asks for clusters first: that is not the whole."""
    snapshot = LIBRARY.snapshot([resource(CLUSTER, "one", 1), resource(LISTENER, "in", 1)])
    fleet = Fleet(Revision("r1", {A: snapshot}))
    session = fleet.connect(A, DeltaStream, 0, lambda: None)
    for type_url in (CLUSTER, LISTENER):
        assert not session.acknowledged
        session.stream.receive(DeltaRequest(type_url), 1)
        fleet.heard(session, 0)
        response = session.stream.poll()
        assert response is not None
        session.stream.receive(DeltaRequest(type_url, nonce=response.nonce), 1)
        fleet.heard(session, 0)
    assert session.acknowledged == "r1"
