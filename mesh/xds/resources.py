"""What is served: resources keyed by their content, and the whole that one sidecar shall have.

A resource's version is the hash of its bytes, so it is the same after a restart of the server, in
another region, and for each sidecar that gets the same. Everything here is immutable, and shared by
all streams: a stream holds references and no bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary, WeakValueDictionary

from google.protobuf import any_pb2

from mesh.envoy.wire import tagged

_VERSION_DIGITS = 20


@dataclass(frozen=True, eq=False)
class Resource:
    """One resource, encoded once for both protocols.

    `needs` are the resources of other types, as (type, name), that a client asks for because of
    this one. `delta` is an entry of `DeltaDiscoveryResponse.resources`, `whole` one of
    `DiscoveryResponse.resources`, both with tag and length.
    """

    type_url: str
    name: str
    version: str
    delta: bytes = field(repr=False)
    whole: bytes = field(repr=False)
    needs: frozenset[tuple[str, str]] = frozenset()

    @property
    def message(self) -> bytes:
        """The message itself, as it was encoded."""
        at = 1
        while self.whole[at] & 0x80:
            at += 1
        return any_pb2.Any.FromString(self.whole[at + 1 :]).value


@dataclass(frozen=True)
class Changes:
    """From one collection to the next: names that are new or differ, and names that are gone."""

    changed: tuple[str, ...]
    removed: tuple[str, ...]


class Collection(Mapping[str, Resource]):
    """All resources of one type that a sidecar shall have, by name; equal if their versions are."""

    def __init__(self, resources: Iterable[Resource] = ()) -> None:
        self._resources = {each.name: each for each in sorted(resources, key=lambda r: r.name)}
        self.version = digest(self._resources.values())
        needs: dict[str, set[str]] = {}
        for each in self._resources.values():
            for type_url, name in each.needs:
                needs.setdefault(type_url, set()).add(name)
        self.needs: Mapping[str, frozenset[str]] = {
            type_url: frozenset(names) for type_url, names in needs.items()
        }
        self._changes: WeakKeyDictionary[Collection, Changes] = WeakKeyDictionary()

    def __getitem__(self, name: str) -> Resource:
        return self._resources[name]

    def __contains__(self, name: object) -> bool:
        return name in self._resources

    def __iter__(self) -> Iterator[str]:
        return iter(self._resources)

    def __len__(self) -> int:
        return len(self._resources)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Collection) and self.version == other.version

    def __hash__(self) -> int:
        return hash(self.version)

    def changes_since(self, before: Collection) -> Changes:
        """What a client that has `before` lacks; worked out once for all streams."""
        found = self._changes.get(before)
        if found is None:
            found = Changes(
                tuple(
                    name
                    for name, each in self._resources.items()
                    if name not in before or before[name].version != each.version
                ),
                tuple(name for name in before if name not in self),
            )
            self._changes[before] = found
        return found


class Snapshot(Mapping[str, Collection]):
    """Everything that one sidecar shall have, by type. A type that is not there is empty."""

    def __init__(self, collections: Mapping[str, Collection]) -> None:
        self._collections = dict(sorted(collections.items()))
        hashed = hashlib.sha256()
        for type_url, found in self._collections.items():
            hashed.update(f"{type_url}\n{found.version}\n".encode())
        self.version = hashed.hexdigest()[:_VERSION_DIGITS]

    def __getitem__(self, type_url: str) -> Collection:
        return self._collections.get(type_url, NOTHING)

    def __contains__(self, type_url: object) -> bool:
        return type_url in self._collections

    def __iter__(self) -> Iterator[str]:
        return iter(self._collections)

    def __len__(self) -> int:
        return len(self._collections)


class Library:
    """Makes resources and collections, and gives the same object to all who ask for the same."""

    def __init__(self) -> None:
        self._resources: WeakValueDictionary[tuple[str, str, str], Resource] = WeakValueDictionary()
        self._collections: WeakValueDictionary[str, Collection] = WeakValueDictionary()

    def resource(
        self,
        type_url: str,
        name: str,
        message: bytes,
        needs: Iterable[tuple[str, str]] = (),
    ) -> Resource:
        """A resource from the deterministic bytes of its message."""
        version = hashlib.sha256(message).hexdigest()[:_VERSION_DIGITS]
        found = self._resources.get((type_url, name, version))
        if found is None:
            whole = tagged(2, tagged(1, type_url.encode()) + tagged(2, message))
            delta = tagged(2, tagged(1, version.encode()) + whole + tagged(3, name.encode()))
            found = Resource(type_url, name, version, delta, whole, frozenset(needs))
            self._resources[type_url, name, version] = found
        return found

    def snapshot(self, resources: Iterable[Resource]) -> Snapshot:
        """A snapshot of resources of any types."""
        by_type: dict[str, list[Resource]] = {}
        for each in resources:
            by_type.setdefault(each.type_url, []).append(each)
        return Snapshot({type_url: self._shared(each) for type_url, each in by_type.items()})

    def _shared(self, resources: list[Resource]) -> Collection:
        made = Collection(resources)
        return self._collections.setdefault(made.version, made)


def digest(resources: Iterable[Resource]) -> str:
    """The version of several resources together; the order counts."""
    hashed = hashlib.sha256()
    for each in resources:
        hashed.update(f"{each.type_url}\n{each.name}\n{each.version}\n".encode())
    return hashed.hexdigest()[:_VERSION_DIGITS]


NOTHING = Collection()
