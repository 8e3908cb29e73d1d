"""The rules on changes, as data; one file for each subject."""

from mesh.compat.rules import callers, entities, messages, options, terms
from mesh.compat.rules.rule import Found, Rule

RULES: tuple[Rule, ...] = (
    *callers.RULES,
    *terms.RULES,
    *entities.RULES,
    *messages.RULES,
    *options.RULES,
)

__all__ = ["RULES", "Found", "Rule"]
