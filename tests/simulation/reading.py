"""What a reader gets, compared with what the model says that it must get."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import Message

from mesh.replication.core import tokens
from mesh.replication.core.clocks import covers
from tests.simulation.kinds import value
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
        _check_standing(model, region, key, seen)
    if region.journal.reads_all and not region.damage.pending:
        model.same_digest(region.name, region.digest())
    _check_tokens(model, region)
    region.stays.check(region)


def _check_standing(model: Model, region: Region, key: str, seen: int) -> None:
    """All concurrent values of a KEEP_BOTH field stand, and no others."""
    expected = model.entity(key, seen)
    if expected is not None:
        for name, values in expected.standing.items():
            found = sorted(region.standing(key, name))
            if found != values:
                raise Violation(f"{region.name} has {found} in {key} {name}, not {values}")


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
    found: Message | None,
    hidden: frozenset[str] = frozenset(),
) -> None:
    """One entity is what the writes in `seen` make it; `hidden` fields are not looked at."""
    expected = model.entity(key, seen)
    if expected is None or found is None:
        if (expected is None) != (found is None):
            raise Violation(f"{who} {key} {'deleted' if found is None else 'alive'}")
        return
    for name, right in expected.exact.items():
        if name not in hidden and value(found, name) != right:
            raise Violation(f"{who} {key} {name}={value(found, name)}, not {right}")
    for name, values in expected.choices.items():
        if name.split(".")[0] not in hidden and value(found, name) not in values:
            raise Violation(f"{who} {key} {name}={value(found, name)}, none of {set(values)}")
