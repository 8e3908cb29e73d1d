"""The rules that a contract must keep, as data; one file for each subject."""

from mesh.contracts.rules.rule import Rule

RULES: tuple[Rule, ...] = ()
