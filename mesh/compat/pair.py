"""Two versions of a contract side by side, as rules look at them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from google.protobuf import descriptor_pb2

from mesh.compat import roles as role_rules
from mesh.compat.roles import Role
from mesh.compat.uses import Unknown, Uses
from mesh.compat.verdicts import Verdict, worst
from mesh.contracts.build import method_of
from mesh.contracts.model import Location, Method
from mesh.contracts.schema import (
    EnumNode,
    FieldNode,
    MessageNode,
    MethodNode,
    Schema,
    ServiceNode,
)

FOREIGN = ("google/protobuf/", "buf/validate/")
"""Files of the standard library, for which those answer who release them."""

_KEPT = frozenset({Role.STORED, Role.REPLICATED})


class Side:
    """One version. `name` is what people call it."""

    def __init__(self, name: str, image: descriptor_pb2.FileDescriptorSet) -> None:
        self.name = name
        self.image = image
        self.schema = Schema(image)

    @cached_property
    def roles(self) -> Mapping[str, frozenset[Role]]:
        """What messages and enums are for."""
        return role_rules.roles(self.schema)

    @cached_property
    def json(self) -> frozenset[str]:
        """What is called as JSON."""
        return role_rules.json(self.schema)

    @cached_property
    def methods(self) -> Mapping[str, MethodNode]:
        """Methods by ``package.Service/Method``."""
        return {node.name: node for node in self.schema.methods()}

    @cached_property
    def terms(self) -> Mapping[str, Method]:
        """The same, with what their options say."""
        return {name: method_of(self.schema, node) for name, node in self.methods.items()}

    @cached_property
    def messages(self) -> Mapping[str, MessageNode]:
        """Messages that are not the standard library's."""
        found = self.schema.messages.items()
        return {name: node for name, node in found if not node.source.file.startswith(FOREIGN)}

    @cached_property
    def enums(self) -> Mapping[str, EnumNode]:
        """Enums that are not the standard library's."""
        found = self.schema.enums.items()
        return {name: node for name, node in found if not node.source.file.startswith(FOREIGN)}


@dataclass(frozen=True)
class Pair:
    """What runs, or is stored (then `stored` is set), and what shall run beside it."""

    old: Side
    new: Side
    stored: bool = False
    uses: Uses = field(default_factory=Unknown)

    def roles(self, name: str) -> frozenset[Role]:
        """What a message or enum is for in either; of stored ones, what is kept."""
        none: frozenset[Role] = frozenset()
        found = self.old.roles.get(name, none) | self.new.roles.get(name, none)
        return (found or role_rules.ALL) & (_KEPT if self.stored else role_rules.ALL)

    def by_roles(self, name: str, verdicts: Mapping[Role, Verdict]) -> Verdict | None:
        """The worst verdict of a message's roles; None if it has none that counts here."""
        found = self.roles(name)
        return worst(verdicts[role] for role in found) if found else None

    def ordered(self, method: str, verdict: Verdict) -> Verdict:
        """An order, or a gate where a workload calls itself and there is none."""
        sides = (self.old.methods.get(method), self.new.methods.get(method))
        peers = any(role_rules.among_peers(node) for node in sides if node is not None)
        return Verdict.GATED if peers and verdict.kind == "ordered" else verdict

    def methods(self) -> Iterator[tuple[Method, Method]]:
        """What the methods say that are in both."""
        for name, new in self.new.terms.items():
            if name in self.old.terms:
                yield self.old.terms[name], new

    def services(self) -> Iterator[tuple[ServiceNode, ServiceNode]]:
        """The services that are in both."""
        for name, new in self.new.schema.services.items():
            if name in self.old.schema.services:
                yield self.old.schema.services[name], new

    def messages(self) -> Iterator[tuple[MessageNode, MessageNode]]:
        """The messages that are in both."""
        for name, new in self.new.messages.items():
            if name in self.old.messages:
                yield self.old.messages[name], new

    def enums(self) -> Iterator[tuple[EnumNode, EnumNode]]:
        """The enums that are in both."""
        for name, new in self.new.enums.items():
            if name in self.old.enums:
                yield self.old.enums[name], new

    def fields(self) -> Iterator[tuple[FieldNode, FieldNode]]:
        """The fields that are in both, by their numbers."""
        for before, after in self.messages():
            old = {node.proto.number: node for node in before.fields}
            for new in after.fields:
                if new.proto.number in old:
                    yield old[new.proto.number], new

    def added(self) -> Iterator[FieldNode]:
        """The fields that are new in a message that is not."""
        for before, after in self.messages():
            old = {node.proto.number for node in before.fields}
            yield from (node for node in after.fields if node.proto.number not in old)

    def here(self, method: Method) -> Location:
        """Where to say that a method is gone: its service in the new version, or the old place."""
        service = self.new.schema.services.get(method.service)
        return service.source.at() if service is not None else method.location
