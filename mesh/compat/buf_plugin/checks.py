"""buf's questions, answered by the gate's engine. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.protobuf import descriptor_pb2

from mesh.compat import sources
from mesh.compat.buf_plugin.messages import CHECK, new
from mesh.compat.engine import Change, compare, together
from mesh.compat.pair import Pair, Side
from mesh.compat.rules import RULES
from mesh.compat.verdicts import Verdict
from mesh.contracts.model import Location

CATEGORY = "ISTHMUS"
_BREAKING_RULE = 2


def list_rules(_request: Any) -> Any:
    """All rules, each one to run unless it is left out."""
    answer: Any = new(f"{CHECK}.ListRulesResponse")
    for rule in RULES:
        answer.rules.add(
            id=rule.id,
            category_ids=[CATEGORY],
            default=True,
            purpose=rule.purpose,
            type=_BREAKING_RULE,
        )
    return answer


def list_categories(_request: Any) -> Any:
    """The one that all rules are in."""
    answer: Any = new(f"{CHECK}.ListCategoriesResponse")
    answer.categories.add(id=CATEGORY, purpose="What Isthmus contracts promise is kept.")
    return answer


def check(request: Any) -> Any:
    """What no order of rollouts makes safe, and what somebody has to approve.

    buf knows no verdicts: what it is told of fails. Raises `GateError` for options of a newer
    Isthmus, which nobody here can judge.
    """
    answer: Any = new(f"{CHECK}.CheckResponse")
    if not request.against_file_descriptors:
        return answer
    after = sources.sound("the contract", _image(request.file_descriptors))
    before = sources.sound("what it is compared with", _image(request.against_file_descriptors))
    for change in together(compare(Pair(before, after))):
        asked = not request.rule_ids or change.rule in request.rule_ids
        if asked and (change.verdict is Verdict.BREAKING or change.approval):
            _annotate(answer.annotations.add(), change, before, after)
    return answer


METHODS: Mapping[str, Callable[[Any], Any]] = {
    "Check": check,
    "ListRules": list_rules,
    "ListCategories": list_categories,
}


def _image(files: Iterable[Any]) -> descriptor_pb2.FileDescriptorSet:
    image = descriptor_pb2.FileDescriptorSet()
    for each in files:
        image.file.add().ParseFromString(each.file_descriptor_proto.SerializeToString())
    return image


def _annotate(annotation: Any, change: Change, before: Side, after: Side) -> None:
    approval = "; somebody has to approve it" if change.approval else ""
    annotation.rule_id = change.rule
    annotation.message = f"{change.subject}: {change.what}{approval}: {change.remedy}."
    for side, location in (
        (after, annotation.file_location),
        (before, annotation.against_file_location),
    ):
        if any(file.name == change.location.file for file in side.image.file):
            location.file_name = change.location.file
            location.source_path.extend(_path(side, change.location))
            return


def _path(side: Side, at: Location) -> Iterable[int]:
    """Of what begins in that line the outermost: buf takes the first position of a path, so that
    one has to be there."""
    first: dict[tuple[int, ...], int] = {}
    for file in side.image.file:
        if file.name == at.file:
            for found in file.source_code_info.location:
                first.setdefault(tuple(found.path), found.span[0] + 1)
    return min(
        (path for path, line in first.items() if path and line == at.line), key=len, default=()
    )
