"""What every merge rule does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

State = Any
"""A cell's state; its form is its rule's business."""


class Stamp(NamedTuple):
    """What orders changes: each has a stamp of its own."""

    clock: int
    region: str
    incarnation: int


class Version(NamedTuple):
    """A value that stood against another; `stamp` is None where it is not known any more."""

    stamp: Stamp | None
    value: bytes


Decision = tuple[Version, Version]
"""Two concurrent values: the one that reads give, and the other."""

Unseen = Mapping[tuple[str, int], int]
"""What a writer had not seen: by origin, the clock after which it knew nothing.

Of origins that are not in it the writer had seen all that is here.
"""


def unseen_by(writer: Unseen, stamp: tuple[int, str, int]) -> bool:
    """Whether a writer had not seen what carries a stamp."""
    seen = writer.get(stamp[1:])
    return seen is not None and stamp[0] > seen


class Rule(ABC):
    """One merge rule."""

    @abstractmethod
    def from_delta(self, stamp: Stamp, delta: bytes) -> State:
        """The state that a change's delta alone stands for."""

    @abstractmethod
    def values(self, state: State) -> Iterable[bytes]:
        """The encoded values in a state, each to be well formed for it to be rendered."""

    @abstractmethod
    def join(self, one: State, other: State) -> State:
        """The least state above both. Returns `one` itself if `other` adds nothing."""

    @abstractmethod
    def encode(self, state: State) -> bytes:
        """The canonical bytes of a state: equal states have equal bytes."""

    @abstractmethod
    def decode(self, data: bytes) -> State:
        """The state of canonical bytes."""

    @abstractmethod
    def render(self, number: int, state: State) -> bytes:
        """The state as field `number` of a serialized message; empty if it is not set."""

    def stamps(self, state: State) -> Iterable[Stamp]:
        """The stamps that a state keeps."""
        return ()

    def decisions(
        self, state: State, change: State, stamp: Stamp, unseen: Unseen
    ) -> Iterable[Decision]:
        """What joining a state with a change of that stamp decides between concurrent values.

        `change` is the state that the change alone stands for; `unseen` says what its writer had
        not seen. None under rules that lose nothing.
        """
        return ()
