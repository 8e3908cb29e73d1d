"""The rules that a contract must keep, as data; one file for each subject."""

from mesh.contracts.rules import (
    bindings,
    callers,
    chains,
    deadlines,
    entities,
    homes,
    merges,
    promises,
    services,
    supported,
)
from mesh.contracts.rules.rule import Rule

RULES: tuple[Rule, ...] = (
    *supported.RULES,
    *services.RULES,
    *callers.RULES,
    *bindings.RULES,
    *deadlines.RULES,
    *chains.RULES,
    *promises.RULES,
    *entities.RULES,
    *homes.RULES,
    *merges.RULES,
)
