"""What is wrong with a contract: one finding is one thing, at one place, with its remedy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mesh.contracts.model import Location


@dataclass(frozen=True, order=True)
class Finding:
    """A refusal: where, by which rule, what is wrong and what to write instead."""

    file: str
    line: int
    rule: str
    message: str
    remedy: str

    @property
    def location(self) -> Location:
        """Where it is."""
        return Location(self.file, self.line)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message} [{self.rule}]\n    {self.remedy}"


class ContractError(Exception):
    """A contract is refused; `findings` holds everything that is wrong with it, sorted."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings: tuple[Finding, ...] = tuple(sorted(set(findings)))
        super().__init__("\n".join(str(finding) for finding in self.findings))
