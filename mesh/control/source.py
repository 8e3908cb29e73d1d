"""What a revision is made from: a contract's image and the text of a topology. Pure.

A revision is named by the hash of the two, so it has the same name in all regions, whoever deploys
it, and deploying what runs already is seen to be that.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from mesh.contracts import Contract
    from mesh.topology import Topology

_DIGITS = 12
FILE = Path("mesh.yaml")
"""What messages about a revision's topology call it."""


@dataclass(frozen=True)
class Source:
    """A descriptor set with source positions, and a `mesh.yaml`."""

    image: bytes
    topology_text: str

    @classmethod
    def of(cls, image: bytes, topology: Topology) -> Source:
        """An image and the file that the topology was read from; it names no other file then."""
        from mesh.topology import whole

        return cls(image, whole(topology))

    @cached_property
    def name(self) -> str:
        """The revision's name; comments and blanks of the topology do not count."""
        document = json.dumps(yaml.safe_load(self.topology_text), sort_keys=True, default=str)
        hashed = hashlib.sha256(self.image + b"\n" + document.encode())
        return hashed.hexdigest()[:_DIGITS]

    def contract(self) -> Contract:
        """The contract. Raises `ContractError`."""
        from google.protobuf.descriptor_pb2 import FileDescriptorSet

        from mesh.contracts import read

        return read(FileDescriptorSet.FromString(self.image))

    def topology(self) -> Topology:
        """The topology. Raises `TopologyError`."""
        from mesh.topology import parse

        return parse(self.topology_text, FILE)
