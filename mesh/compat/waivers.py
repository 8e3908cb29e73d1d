"""Waivers: a reviewed file that says who answers for a change that the gate would stop."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from mesh.compat.errors import GateError

_KEYS = ("rule", "place", "owner", "reason", "expires")


@dataclass(frozen=True)
class Waiver:
    """One change that is let through until a day, that day included. `line` is in its file."""

    rule: str
    place: str
    owner: str
    reason: str
    expires: date
    line: int = 1

    def expired(self, today: date) -> bool:
        """Whether it holds no more."""
        return today > self.expires


def read(path: Path, rules: Collection[str]) -> tuple[Waiver, ...]:
    """The waivers of a file; `rules` are those that there are. Raises `GateError`."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise GateError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise GateError(f"{path} is no YAML: {error}") from None
    found: dict[tuple[str, str], Waiver] = {}
    for node in _entries(path, root):
        where = f"{path}:{node.start_mark.line + 1}"
        waiver = _waiver(where, node, rules)
        if (waiver.rule, waiver.place) in found:
            raise GateError(f"{where}: {waiver.rule} at {waiver.place} is waived twice: keep one")
        found[waiver.rule, waiver.place] = waiver
    return tuple(found.values())


def _entries(path: Path, root: Any) -> list[Any]:
    if root is None:
        return []
    entries = {key.value: value for key, value in root.value} if _is_map(root) else {}
    listed = entries.pop("waivers", None)
    if entries or not isinstance(listed, yaml.SequenceNode):
        raise GateError(f"{path}: write `waivers:` and below it a list, and nothing else")
    return list(listed.value)


def _waiver(where: str, node: Any, rules: Collection[str]) -> Waiver:
    pairs = [(key.value, value) for key, value in node.value] if _is_map(node) else []
    values = {key: str(value.value).strip() for key, value in pairs}
    if sorted(key for key, _ in pairs) != sorted(_KEYS) or not all(values.values()):
        raise GateError(f"{where}: a waiver has {', '.join(_KEYS)}, each once and not empty")
    if values["rule"] not in rules:
        raise GateError(f"{where}: there is no rule {values['rule']}: see docs/compat/README.md")
    try:
        expires = date.fromisoformat(values["expires"])
    except ValueError:
        said = values["expires"]
        raise GateError(f'{where}: "{said}" is no day: write one such as 2027-01-31') from None
    return Waiver(
        values["rule"],
        values["place"],
        values["owner"],
        values["reason"],
        expires,
        node.start_mark.line + 1,
    )


def _is_map(node: Any) -> bool:
    return isinstance(node, yaml.MappingNode)
