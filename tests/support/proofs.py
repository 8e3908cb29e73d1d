"""Which test proves which option: read from the tests' source, so that nothing need be started."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
_NOT_RUN = {"skip", "xfail"}


@dataclass(frozen=True)
class Claim:
    """A test that says `@pytest.mark.proves(option)`, or `refuses`.

    `runs` unless it is skipped or expected to fail; `e2e` if it starts real processes.
    """

    option: str
    marker: str
    test: str
    e2e: bool
    runs: bool


def claims(tests: Path = TESTS) -> Iterator[Claim]:
    """Every claim in the tests below a folder."""
    for path in sorted(tests.rglob("test_*.py")):
        text = path.read_text()
        if ".proves(" in text or ".refuses(" in text:
            yield from _of_file(ast.parse(text), str(path.relative_to(tests.parent)))


def _of_file(module: ast.Module, name: str) -> Iterator[Claim]:
    everywhere = {
        mark
        for node in module.body
        if isinstance(node, ast.Assign)
        and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets)
        for mark, _ in _marks([node.value])
    }
    for node in module.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        marks = list(_marks(node.decorator_list))
        names = everywhere | {mark for mark, _ in marks}
        test = node.name.startswith("test_")
        for mark, options in marks:
            if mark in ("proves", "refuses"):
                for option in options:
                    yield Claim(
                        option,
                        mark,
                        f"{name}::{node.name}",
                        "e2e" in names,
                        test and not names & _NOT_RUN,
                    )


def _marks(nodes: Iterable[ast.expr]) -> Iterator[tuple[str, list[str]]]:
    """Each `pytest.mark.NAME` in some expressions, with its literal arguments."""
    for root in nodes:
        arguments = {
            id(call.func): [
                part.value
                for argument in call.args
                for part in ast.walk(argument)
                if isinstance(part, ast.Constant)
            ]
            for call in ast.walk(root)
            if isinstance(call, ast.Call)
        }
        for node in ast.walk(root):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Attribute)
                and node.value.attr == "mark"
            ):
                yield node.attr, [str(a) for a in arguments.get(id(node), [])]


def faults(
    enforced: Iterable[str],
    refused: Iterable[str],
    found: Iterable[Claim],
    where: Mapping[str, str],
) -> list[str]:
    """What is wrong with the proofs, a line each.

    `where` says, by the part of an option's name before the dot, in which file such tests are.
    """
    enforced, refused, found = set(enforced), set(refused), list(found)
    wrong = []
    for claim in found:
        said = f"{claim.test} {claim.marker} {claim.option!r}"
        if claim.option not in enforced | refused:
            wrong.append(f"{said}: there is no such option (docs/contract-options.md has them)")
        elif claim.marker == "proves" and claim.option in refused:
            wrong.append(f"{said}, which is refused: mark the test of that with `refuses`")
        elif claim.marker == "refuses" and claim.option in enforced:
            wrong.append(f"{said}, which is enforced: mark an end-to-end test with `proves`")
        elif claim.marker == "proves" and not claim.e2e:
            wrong.append(f"{said}, but starts nothing: move it to tests/e2e and mark it e2e")
        elif not claim.runs:
            wrong.append(f"{said}, but is no test that runs and passes")
    held = {(claim.marker, claim.option) for claim in found if claim.runs}
    for marker, options in (("proves", enforced), ("refuses", refused)):
        for option in sorted(options):
            if (marker, option) not in held:
                file = where[option.partition(".")[0]] if marker == "proves" else _REFUSALS
                wrong.append(
                    f"no test shows that {option} is "
                    f"{'enforced' if marker == 'proves' else 'refused'}: write one in {file} "
                    f'and mark it @pytest.mark.{marker}("{option}")'
                )
    return wrong


_REFUSALS = "tests/unit/contracts/test_contract_refusals.py"
