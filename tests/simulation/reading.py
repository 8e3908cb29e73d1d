"""What a reader gets, compared with what the model says that it must get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isthmus.channels.v1 import channel_pb2

from mesh.replication.core import tokens
from mesh.replication.core.clocks import covers
from tests.simulation.model import Model, Violation

if TYPE_CHECKING:
    from tests.simulation.region import Region


def check_reads(model: Model, region: Region) -> None:
    """All entities of a region are what its writes make them."""
    seen = model.held[region.name].writes
    for key in model.all_keys():
        if region.damage.concerns(key):
            continue
        check_entity(model, f"{region.name} reads", key, seen, region.get(key), region.hidden)
    if region.journal.reads_all and not region.damage.pending:
        model.same_digest(region.name, region.digest())
    _check_tokens(model, region)
    region.stays.check(region)


def _check_tokens(model: Model, region: Region) -> None:
    """Where a token is satisfied, all is seen that its holder saw; the reader gets one too."""
    vector = region.journal.vector
    seen = model.held[region.name].writes
    for token, held, reader in model.tokens:
        if held & ~seen and covers(vector, token):
            raise Violation(f"{region.name} satisfies the token of a reader in {reader}, with less")
    model.tokens.append((tokens.reduced(vector, region.journal.implied), seen, region.name))


def check_entity(
    model: Model,
    who: str,
    key: str,
    seen: int,
    found: channel_pb2.Channel | None,
    hidden: frozenset[str] = frozenset(),
) -> None:
    """One entity is what the writes in `seen` make it; `hidden` fields are not looked at."""
    expected = model.entity(key, seen)
    if expected is None or found is None:
        if (expected is None) != (found is None):
            raise Violation(f"{who} {key} {'deleted' if found is None else 'alive'}")
        return
    for name, value in expected.exact.items():
        if name not in hidden and value_of(found, name) != value:
            raise Violation(f"{who} {key} {name}={value_of(found, name)}, not {value}")
    for name, values in expected.choices.items():
        if name.split(".")[0] not in hidden and value_of(found, name) not in values:
            raise Violation(f"{who} {key} {name}={value_of(found, name)}, none of {set(values)}")


def value_of(channel: channel_pb2.Channel, name: str) -> Any:
    """A field's value in the model's terms."""
    if name == "labels":
        return frozenset(channel.labels)
    if name == "assignment":
        return channel.assignment.epoch, channel.assignment.region
    value: Any = channel
    for part in name.split("."):
        value = getattr(value, part)
    return value
