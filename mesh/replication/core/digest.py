"""The digest of a group's whole state.

The sum, modulo 2^256, of SHA-256 over each entity's canonical bytes (Bellare and Micciancio,
"Incremental Cryptography", 1997, as AdHash): order does not matter, and a change costs the same
however many entities there are. It proves agreement between regions that trust each other; it is
not made to resist a forger.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh.replication.core.entities import EntityKey, EntityState, fingerprint

_MODULUS = 1 << 256


class Digest:
    """Follows the states that it is told about; hashes them when asked, each once."""

    def __init__(self) -> None:
        self._sum = 0
        self._parts: dict[EntityKey, int] = {}
        self._changed: set[EntityKey] = set()

    def touch(self, entity: EntityKey) -> None:
        """Takes note that an entity changed."""
        self._changed.add(entity)

    def value(self, states: Mapping[EntityKey, EntityState]) -> bytes:
        """The digest of the states: 32 bytes."""
        for entity in self._changed:
            part = fingerprint(entity, states[entity])
            self._sum = (self._sum + part - self._parts.get(entity, 0)) % _MODULUS
            self._parts[entity] = part
        self._changed.clear()
        return self._sum.to_bytes(32, "big")
