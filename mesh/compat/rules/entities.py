"""Services, groups, entities and merge rules: what regions must agree on to converge."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus.options.v1 import options_pb2

from mesh.compat.pair import Pair
from mesh.compat.roles import Role
from mesh.compat.rules.rule import Found, Rule
from mesh.compat.verdicts import Verdict
from mesh.contracts.schema import ENTITY, FIELD, SERVICE, MessageNode

_NEW_FIELD = "add a field with the new rule, write both, and move readers over"
_NEW_ENTITY = "add another entity, write both, and move readers over"
_Home, _Scope = options_pb2.Home, options_pb2.Scope


def _moved(pair: Pair) -> Iterator[Found]:
    for old, new in pair.services():
        was, now = old.contract.workload, new.contract.workload
        if was != now:
            yield Found(
                new.name,
                f"served by {now or 'nobody'}, was {was or 'nobody'}: callers that run the old "
                "version go to the old workload",
                Verdict.BREAKING,
                "add a service for the new workload, and move callers over",
                new.source.at(SERVICE, 1),
            )


def _group(pair: Pair) -> Iterator[Found]:
    for service, after in pair.services():
        was, now = service.contract.group, after.contract.group
        if was != now:
            yield Found(
                after.name,
                f"its replication group is {now or 'none'}, was {was or 'none'}",
                Verdict.BREAKING if was else Verdict.SERVERS_FIRST,
                "keep the group: its journal stays behind" if was else "roll it out everywhere",
                after.source.at(SERVICE, 2),
            )
    for old, new in pair.messages():
        if old.entity is None or new.entity is None or old.entity.group == new.entity.group:
            continue
        yield Found(
            new.name,
            f"its replication group is {new.entity.group}, was {old.entity.group}",
            Verdict.BREAKING,
            _NEW_ENTITY,
            new.source.at(ENTITY, 1),
        )


def _owner(pair: Pair) -> Iterator[Found]:
    for old, new in pair.services():
        for number, option in ((3, "owner"), (4, "runbook")):
            was, now = getattr(old.contract, option), getattr(new.contract, option)
            if was != now:
                yield Found(
                    new.name,
                    f"{option} is {now or 'none'}, was {was or 'none'}",
                    Verdict.SAFE,
                    "nothing to do",
                    new.source.at(SERVICE, number),
                )


def _entity(pair: Pair) -> Iterator[Found]:
    for name, new in pair.new.messages.items():
        if new.entity is not None and not _is_entity(pair.old.messages.get(name)):
            yield Found(
                name,
                "the entity is new: regions that run the old version keep it and cannot read it",
                Verdict.GATED,
                "write it once every region runs this version",
                new.source.at(ENTITY),
            )
    for name, old in pair.old.messages.items():
        after = pair.new.messages.get(name)
        if old.entity is None:
            continue
        if after is None or after.entity is None:
            yield Found(
                name,
                "it is no entity any more, and journals hold it",
                Verdict.BREAKING,
                "keep the entity as long as any region or journal has it",
                old.source.at() if after is None else after.source.at(),
            )
        elif _number(old, old.entity.key) != _number(after, after.entity.key):
            yield Found(
                name,
                f"its key is {after.entity.key}, was {old.entity.key}",
                Verdict.BREAKING,
                _NEW_ENTITY,
                after.source.at(ENTITY, 2),
            )


def _home(pair: Pair) -> Iterator[Found]:
    for old, new in pair.messages():
        if old.entity is None or new.entity is None:
            continue
        was = old.entity.home or _Home.HOME_ANY_REGION
        now = new.entity.home or _Home.HOME_ANY_REGION
        fields = _number(old, old.entity.home_field), _number(new, new.entity.home_field)
        if was != now or fields[0] != fields[1]:
            yield Found(
                new.name,
                f"home is {_Home.Name(now)} by {new.entity.home_field or 'none'}, was "
                f"{_Home.Name(was)} by {old.entity.home_field or 'none'}: regions disagree on who "
                "writes",
                Verdict.BREAKING,
                _NEW_ENTITY,
                new.source.at(ENTITY, 3),
            )


def _history(pair: Pair) -> Iterator[Found]:
    for old, new in pair.messages():
        if old.entity is None or new.entity is None or old.entity.history == new.entity.history:
            continue
        lost = old.entity.history
        yield Found(
            new.name,
            "its history is not kept any more" if lost else "its history is kept from now on",
            Verdict.CALLERS_FIRST if lost else Verdict.SAFE,
            "have nobody read it first" if lost else "nothing to do",
            new.source.at(ENTITY, 4),
        )


def _merge(pair: Pair) -> Iterator[Found]:
    for old, new in pair.fields():
        replicated = Role.REPLICATED in pair.old.roles.get(old.message.name, frozenset())
        was, now = _rule(old.contract), _rule(new.contract)
        if was != now and (replicated or was != _rule(None)):
            yield Found(
                new.full_name,
                f"it merges by {_said(now)}, and by {_said(was)} before: regions would differ for "
                "ever",
                Verdict.BREAKING,
                _NEW_FIELD,
                new.source.at(FIELD),
            )


def _scope(pair: Pair) -> Iterator[Found]:
    for old, new in pair.fields():
        was, now = _home_only(old.contract), _home_only(new.contract)
        if was != now:
            yield Found(
                new.full_name,
                "it leaves its home region, where it stayed"
                if was
                else "it shall stay in its home region, and others have it",
                Verdict.BREAKING,
                _NEW_FIELD,
                new.source.at(FIELD, 2),
                approval=True,
            )


def _home_only(contract: options_pb2.FieldContract | None) -> bool:
    return contract is not None and contract.scope == _Scope.SCOPE_HOME_REGION


def _rule(contract: options_pb2.FieldContract | None) -> tuple[int, tuple[str, ...], int | None]:
    if contract is None:
        return 0, (), None
    bound = contract.at_least if contract.HasField("at_least") else None
    return contract.merge, tuple(contract.order_by), bound


def _said(rule: tuple[int, tuple[str, ...], int | None]) -> str:
    merge, order, bound = rule
    more = f" of {', '.join(order)}" if order else ""
    return options_pb2.Merge.keys()[merge] + more + (f" above {bound}" if bound is not None else "")


def _number(message: MessageNode, name: str) -> int:
    field = message.field(name)
    return field.proto.number if field is not None else 0


def _is_entity(message: MessageNode | None) -> bool:
    return message is not None and message.entity is not None


RULES = (
    Rule(
        "SERVICE_MOVED",
        "A service stays with its workload.",
        _moved,
        ("ServiceContract.workload",),
        calls=True,
    ),
    Rule(
        "GROUP_CHANGED",
        "Data stays in its group's journal.",
        _group,
        ("ServiceContract.group", "EntityContract.group"),
    ),
    Rule(
        "OWNER_CHANGED",
        "Whom to ask is told.",
        _owner,
        ("ServiceContract.owner", "ServiceContract.runbook"),
        calls=True,
    ),
    Rule("ENTITY_CHANGED", "Regions agree on what an entity is.", _entity, ("EntityContract.key",)),
    Rule(
        "HOME_CHANGED",
        "Regions agree on who writes an entity.",
        _home,
        ("EntityContract.home", "EntityContract.home_field"),
    ),
    Rule(
        "HISTORY_CHANGED", "Nobody reads what is not kept.", _history, ("EntityContract.history",)
    ),
    Rule(
        "MERGE_CHANGED",
        "A merge rule never changes in place.",
        _merge,
        ("FieldContract.merge", "FieldContract.order_by", "FieldContract.at_least"),
    ),
    Rule(
        "SCOPE_CHANGED", "Where values go never changes in place.", _scope, ("FieldContract.scope",)
    ),
)
