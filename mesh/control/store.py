"""What a control plane keeps: revisions, which one is good, and which one `isthmus up` installed.

<data>/revisions/<name>/contract.binpb, topology.yaml, compiled.binpb
<data>/standing.json

A revision is written whole before anything names it, and never changed in its meaning.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from mesh.control.compiled import unpack
from mesh.control.source import Source
from mesh.xds.fleet import Revision
from mesh.xds.resources import Library

_CONTRACT, _TOPOLOGY, _COMPILED = "contract.binpb", "topology.yaml", "compiled.binpb"


class StoreDamaged(Exception):
    """A file of the control plane is missing or cannot be read."""


@dataclass(frozen=True)
class Standing:
    """Names of revisions: what the installation brought, and what was last confirmed upon it."""

    installed: str
    good: str


class Store:
    """One region's revisions on disk."""

    def __init__(self, data: Path) -> None:
        self._revisions = data / "revisions"
        self._standing = data / "standing.json"

    def save(self, source: Source, compiled: bytes) -> None:
        """Keeps a revision, in place of another one of its name."""
        self._revisions.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".new-", dir=self._revisions))
        _write(made / _CONTRACT, source.image)
        _write(made / _TOPOLOGY, source.topology_text.encode())
        _write(made / _COMPILED, compiled)
        into = self._revisions / source.name
        if into.exists():
            # Only what was compiled may differ, by another version of the compiler.
            (made / _COMPILED).replace(into / _COMPILED)
            shutil.rmtree(made)
        else:
            made.rename(into)
        _sync(self._revisions)

    def names(self) -> frozenset[str]:
        """The revisions that are here."""
        if not self._revisions.is_dir():
            return frozenset()
        return frozenset(
            each.name for each in self._revisions.iterdir() if not each.name.startswith(".")
        )

    def source(self, name: str) -> Source:
        """What a revision was made from. Raises `StoreDamaged`."""
        folder = self._revisions / name
        try:
            return Source(
                (folder / _CONTRACT).read_bytes(), (folder / _TOPOLOGY).read_text(encoding="utf-8")
            )
        except (OSError, UnicodeDecodeError) as error:
            raise StoreDamaged(f"revision {name} cannot be read: {error}") from None

    def compiled(self, name: str, library: Library) -> Revision:
        """What this region's sidecars get under a revision. Raises `StoreDamaged`."""
        path = self._revisions / name / _COMPILED
        try:
            return unpack(path.read_bytes(), library)
        except (OSError, DecodeError, IndexError) as error:
            raise StoreDamaged(f"{path} cannot be read: {error}") from None

    def standing(self) -> Standing | None:
        """Which revisions count; None before the first installation. Raises `StoreDamaged`."""
        try:
            return Standing(**json.loads(self._standing.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise StoreDamaged(f"{self._standing} cannot be read: {error}") from None

    def stand(self, standing: Standing) -> None:
        """From now on, after a restart too, these count."""
        new = self._standing.with_suffix(".new")
        _write(new, json.dumps(asdict(standing)).encode())
        new.replace(self._standing)
        _sync(self._standing.parent)

    def forget(self, keep: frozenset[str]) -> None:
        """Drops all revisions but these."""
        for name in self.names() - keep:
            shutil.rmtree(self._revisions / name, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
