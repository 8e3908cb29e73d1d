"""Operations that are repeated in another region: a region asks the others as a group does.

What a region holds of a write it also knows the result of: both are in one commit, and one frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mesh.replication.core.grants import Claims, Operation
from tests.simulation.network import Pipe

if TYPE_CHECKING:
    from tests.simulation.region import Region

DEADLINE_MS = 900
_AGAIN_MS = 5


class Repeats:
    """The claims of one life of a region."""

    def __init__(self, region: Region) -> None:
        self.claims = Claims(region.name, region.disk.fences)
        self._region = region
        self._asking: set[str] = set()

    def attempt(self, id: str, write: Callable[[], None], *, repeated: bool) -> None:
        """An operation arrives, and is done unless it was."""
        if self._known(id) or self._in_flight(id) or id in self._asking:
            return
        if not repeated and not self.claims.is_fenced(_operation(id)):
            write()
            return
        self._asking.add(id)
        self.claims.begin(_operation(id))
        _Claim(self, id, write)

    def end(self, id: str, write: Callable[[], None] | None) -> None:
        """The others were asked; `write` if all have granted it."""
        self._asking.discard(id)
        kept = self.claims.end(_operation(id))
        if write is not None and kept and not self._known(id) and not self._in_flight(id):
            write()

    def asked(self, id: str, by: str, answer: Callable[[bool], None]) -> None:
        """Another region asks."""
        region = self._region
        if self._in_flight(id):
            again = region.living(lambda: self.asked(id, by, answer))
            region.world.timeline.after(_AGAIN_MS, again)
        elif self._known(id) or not self.claims.asked(_operation(id), by, region.wall_ms):
            answer(False)
        else:
            region.fence(_operation(id), lambda: answer(True))

    def _known(self, id: str) -> bool:
        model = self._region.world.model
        return bool(model.operations.get(id, 0) & model.held[self._region.name].writes)

    def _in_flight(self, id: str) -> bool:
        return bool(self._region.world.model.operations.get(id, 0) & self._region.pending)


class _Claim:
    """One round of questions."""

    def __init__(self, repeats: Repeats, id: str, write: Callable[[], None]) -> None:
        self._repeats = repeats
        self._id = id
        self._write = write
        self._region = repeats._region
        self._open = set(self._region.peers)
        self._pipes: list[Pipe] = []
        paths = self._region.world.paths
        for peer in self._region.peers:
            ask = Pipe(paths[self._region.name, peer], self._at(peer))
            self._pipes.append(ask)
            ask.send(None)
        late = self._region.living(lambda: self._end(granted=False))
        self._region.world.timeline.after(DEADLINE_MS, late)

    def _at(self, name: str) -> Callable[[None], None]:
        peer, region = self._region.world.regions[name], self._region
        down = Pipe(region.world.paths[name, region.name], self._answered(name))
        self._pipes.append(down)

        def arrives(_: None) -> None:
            if peer.up:
                peer.repeats.asked(self._id, region.name, down.send)

        return arrives

    def _answered(self, name: str) -> Callable[[bool], None]:
        life = self._region.living

        def answered(granted: bool) -> None:
            if not granted:
                take()
                return
            self._open.discard(name)
            if not self._open:
                done()

        take = life(lambda: self._end(granted=False))
        done = life(lambda: self._end(granted=True))
        return answered

    def _end(self, *, granted: bool) -> None:
        if self._pipes:
            for pipe in self._pipes:
                pipe.drop()
            self._pipes.clear()
            self._repeats.end(self._id, self._write if granted else None)


def _operation(id: str) -> Operation:
    return ("", "", id)
