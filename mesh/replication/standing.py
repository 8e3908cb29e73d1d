"""How a group stands in one region, as its status tells it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from isthmus.mesh.v1 import status_pb2
from isthmus.replication.v1 import frame_pb2

from mesh.replication.core.batches import Visible
from mesh.replication.core.clocks import vector_to_proto
from mesh.replication.core.journal import Journal
from mesh.replication.horizon import Horizon
from mesh.replication.lagging import Lagging
from mesh.replication.links import Links
from mesh.replication.membership import Membership
from mesh.replication.parked import Parked
from mesh.replication.presence import Presence
from mesh.replication.scrubbing import Scrubber
from mesh.replication.store import Store


class Standing:
    """Gathers a group's status from its parts. To be made in the thread that they run in."""

    def __init__(
        self,
        name: str,
        journal: Journal,
        store: Store,
        members: Membership,
        presence: Presence,
        links: Links,
        scrubber: Scrubber,
        horizon: Horizon,
        parked: Parked,
        now_ms: Callable[[], int],
    ) -> None:
        self._name = name
        self._journal = journal
        self._store = store
        self._members = members
        self._presence = presence
        self._links = links
        self._scrubber = scrubber
        self._horizon = horizon
        self._parked = parked
        self._now_ms = now_ms
        self._living = sum(not state.deleted for state in journal.committed.values())
        self._thread = threading.get_ident()
        self._last = self._gather()

    def committed(self, visible: Visible) -> None:
        """Takes note of what a commit made visible."""
        self._living += visible.living

    def status(self) -> status_pb2.GroupStatus:
        """What stands now; in another thread, what stood when this one asked last."""
        if threading.get_ident() == self._thread:
            self._last = self._gather()
        return self._last

    def _gather(self) -> status_pb2.GroupStatus:
        journal = self._journal
        now_ms = self._now_ms()
        lagging = Lagging(journal, self._members.durable, self._store, now_ms)
        return status_pb2.GroupStatus(
            group=self._name,
            origin=frame_pb2.Origin(
                region=journal.origin.region, incarnation=journal.origin.incarnation
            ),
            vector=vector_to_proto(journal.vector),
            digest=self._scrubber.digest(),
            entities=self._living - self._parked.beside,
            links=map(lagging.unacknowledged, self._links.status()),
            lags=lagging.origins(self._links.known, self._presence.lost_ms()),
            waiting=lagging.waiting(self._links.relayed),
            members=self._members.status(),
            pairs=journal.integrity.pairs(self._links.peers, now_ms),
            integrity=self._scrubber.status(),
            horizon=vector_to_proto(self._horizon.vector),
            journal_bytes=self._store.journal_bytes,
            snapshot=self._horizon.snapshot(),
            parked=self._parked.status(),
            entities_of_unknown_types=self._parked.foreign,
        )
