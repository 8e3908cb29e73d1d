"""Signatures of the heads of chains, by which a relay can neither forge nor reorder.

An origin signs each of its frames once, over its place in the chain: a signature proves all frames
up to it. Keys belong to a region and a group, for a time; a statement by the region's workload
introduces each (`isthmus.replication.v1.OriginKey`). Making and checking both is `Signing`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from enum import Enum
from typing import NamedTuple, Protocol

from mesh.replication.core.clocks import MAX_AHEAD_MS, Origin, milliseconds
from mesh.replication.core.errors import SignatureInvalid

KEY_ID_BYTES = 16
_DOMAIN = b"isthmus chain head 1"


class Head(NamedTuple):
    """The end of an origin's chain at one of its frames; `clock` is that of the last change."""

    origin: Origin
    sequence: int
    clock: int
    hash: bytes


class Key(NamedTuple):
    """What signs for a region's origins, for changes made between two times (milliseconds)."""

    id: bytes
    region: str
    since_ms: int
    until_ms: int
    public: bytes
    statement: bytes


class Signing(Protocol):
    """Makes signatures and checks them, for one group in one region."""

    def key(self) -> Key | None:
        """The key that `sign` uses from now on; None while the region has no identity."""

    def sign(self, content: bytes) -> bytes:
        """A signature by the key that `key` gave last."""

    def read(self, statement: bytes) -> Key:
        """The key that a statement introduces, unchecked. Raises `SignatureInvalid`."""

    def check(self, key: Key) -> None:
        """Raises `SignatureInvalid` unless the key's region made its statement."""

    def verify(self, key: Key, signature: bytes, content: bytes) -> bool:
        """Whether the key made the signature."""


class Verdict(Enum):
    """What a signature says of a head."""

    PROVEN = "its origin signed it"
    UNPROVEN = "it is not signed with a key that is known here, and was good at that time"
    FALSE = "its origin did not sign it"


class Keyring:
    """The keys of a group, as one region knows them.

    `stored` are the statements that were believed before; those that are damaged are passed over,
    for peers introduce their keys again. Without `signing` nothing is signed and nothing is proven:
    a region takes no relayed frame then.
    """

    def __init__(
        self, group: str, signing: Signing | None = None, stored: Iterable[bytes] = ()
    ) -> None:
        self._group = group
        self._signing = signing
        self._keys: dict[bytes, Key] = {}
        self.unstored: dict[bytes, Key] = {}
        """Keys that are not on disk yet, by their ids."""
        for statement in stored:
            if signing is not None:
                # They were checked when they came; their certificates may have ended since.
                with suppress(SignatureInvalid):
                    key = signing.read(statement)
                    self._keys[key.id] = key

    def sign(self, head: Head) -> bytes:
        """The signature of the own head; empty while the region has no identity."""
        key = None if self._signing is None else self._signing.key()
        if self._signing is None or key is None:
            return b""
        self._add(key)
        return key.id + self._signing.sign(self._content(head))

    def learn(self, statement: bytes, peer: str) -> str:
        """Takes a key that a peer introduces. Returns why it cannot be believed, or nothing.

        Of its own key the peer's word is enough: links are authenticated at both ends.
        """
        if self._signing is None:
            return "this region has no roots to check it by"
        try:
            key = self._signing.read(statement)
            if key.id not in self._keys:
                if key.region != peer:
                    self._signing.check(key)
                self._add(key)
        except SignatureInvalid as error:
            return str(error)
        return ""

    def _add(self, key: Key) -> None:
        if key.id not in self._keys:
            self._keys[key.id] = self.unstored[key.id] = key

    @property
    def known(self) -> int:
        """How many keys are known: with one more, more can be proven."""
        return len(self._keys)

    def stored(self, keys: Iterable[Key]) -> None:
        """These are on disk now."""
        for key in keys:
            self.unstored.pop(key.id, None)

    def statement(self, signature: bytes) -> bytes | None:
        """What introduces the key of a signature to others; None if it is not known."""
        key = self._keys.get(signature[:KEY_ID_BYTES])
        return None if key is None else key.statement

    def examine(self, head: Head, signature: bytes) -> Verdict:
        """Whether a head bears its origin's signature."""
        key = self._keys.get(signature[:KEY_ID_BYTES])
        if self._signing is None or key is None:
            return Verdict.UNPROVEN
        if key.region != head.origin.region:
            return Verdict.FALSE
        made_ms = milliseconds(head.clock)
        # Clocks follow those of other regions, which may be that much ahead.
        if not key.since_ms - MAX_AHEAD_MS <= made_ms <= key.until_ms + MAX_AHEAD_MS:
            return Verdict.UNPROVEN
        true = self._signing.verify(key, signature[KEY_ID_BYTES:], self._content(head))
        return Verdict.PROVEN if true else Verdict.FALSE

    def _content(self, head: Head) -> bytes:
        group, region = self._group.encode(), head.origin.region.encode()
        return b"".join(
            (
                _DOMAIN,
                len(group).to_bytes(4, "big"),
                group,
                len(region).to_bytes(4, "big"),
                region,
                head.origin.incarnation.to_bytes(8, "big"),
                head.sequence.to_bytes(8, "big"),
                head.clock.to_bytes(8, "big"),
                head.hash,
            )
        )
