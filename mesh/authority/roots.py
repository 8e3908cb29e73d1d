"""How one root follows another while everything runs.

    announced   the next root is trusted everywhere; the present one goes on signing
    replaced    the next root signs; the one before is still trusted, as its leaves last
    retired     the one before is trusted no more, but in what was stated below it

Whoever renews gets what the step gave, and a leaf lasts an hour at most: so when a step is older
than that, everybody has it, devices and operators too, and the next one may follow. Nobody has to
be asked, and who was away for longer enrols again as after any absence.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

from mesh.authority import keep
from mesh.identity import authority
from mesh.identity.authority import LEAF_LIFETIME, Issuer
from mesh.topology import Topology

DUE = timedelta(days=365)
"""A root with less than this left is replaced: half a year before anybody is warned of its end."""

SETTLED = LEAF_LIFETIME + timedelta(minutes=5)
"""After which everybody has what a step gave."""

_NEXT = "next.pem"
_STEP = "step.json"


class Step(Enum):
    """Where a replacement stands."""

    NONE = "none"
    ANNOUNCED = "announced"
    REPLACED = "replaced"


def begin(state: Path, topology: Topology, now: datetime) -> Step:
    """Announces another root; returns the step that is reached, also if one was under way.

    Raises `AuthorityDamaged`. Without a root there is nothing to replace.
    """
    with keep.locked(state):
        root = keep.load(keep.root_file(state))
        if root is None or _step(state, root) is not Step.NONE:
            return Step.NONE if root is None else _step(state, root)
        following = authority.make_root(topology.trust_domain, now)
        # Its key first: a crash in between leaves a root that nobody has heard of.
        keep.save(_next(state), following)
        keep.save_root(state, replace(root, others=(following.certificate,)))
    advance(state, topology, now)
    return Step.ANNOUNCED


def advance(state: Path, topology: Topology, now: datetime, *, early: bool = False) -> Step:
    """Gives all regions what the step says, and takes the next one when this one has settled.

    `early` for whoever knows that everybody has renewed since. Returns the step that is reached.
    May be repeated, and goes on where a crash left it. Raises `AuthorityDamaged`, and
    `IssuerExpired` if the root has ended.
    """
    with keep.locked(state):
        root = keep.load(keep.root_file(state))
        if root is None:
            return Step.NONE
        step = _step(state, root)
        spread(state, topology, root, now)
        since = _since(state, step)
        if step is Step.NONE:
            return step
        if since is None:
            _note(state, step, now)
        elif early or now - since >= SETTLED:
            root = _following(state, root, step, now)
            keep.save_root(state, root)
            _next(state).unlink(missing_ok=True)
            spread(state, topology, root, now)
            step = _step(state, root)
            _note(state, step, now)
        return step


def step(state: Path) -> tuple[Step, datetime | None]:
    """Where a replacement stands, and since when. Raises `AuthorityDamaged`."""
    root = keep.load(keep.root_file(state))
    found = Step.NONE if root is None else _step(state, root)
    return found, _since(state, found)


def due(state: Path, now: datetime) -> bool:
    """Whether the root nears its end. Raises `AuthorityDamaged`."""
    root = keep.load(keep.root_file(state))
    return root is not None and root.certificate.not_valid_after_utc - now < DUE


def spread(state: Path, topology: Topology, root: Issuer, now: datetime) -> None:
    """Gives each region that has an issuing certificate what the root has it trust and sign by.

    Call it with the state locked.
    """
    for region in topology.region_names:
        path = keep.data_folder(state, region) / keep.ISSUING
        issuer = keep.load(path)
        if issuer is None:
            continue
        if issuer.root != root.certificate:
            fresh = authority.make_region_issuer(root, topology.trust_domain, region, now)
            keep.save(path, fresh)
        elif (issuer.others, issuer.former) != (root.others, root.former):
            keep.save(path, replace(issuer, others=root.others, former=root.former))


def _following(state: Path, root: Issuer, step: Step, now: datetime) -> Issuer:
    """The root as of the next step."""
    if step is Step.ANNOUNCED:
        found = keep.load(_next(state))
        assert found is not None  # noqa: S101 # the step says so
        return replace(found, others=(root.certificate,), former=root.former)
    former = (*root.former, *root.others)
    kept = tuple(each for each in former if each.not_valid_after_utc > now)
    return replace(root, others=(), former=kept)


def _step(state: Path, root: Issuer) -> Step:
    if not root.others:
        return Step.NONE
    # A crash may have left the next one's file beside the root that it has become.
    following = keep.load(_next(state))
    announced = following is not None and following.certificate in root.others
    return Step.ANNOUNCED if announced else Step.REPLACED


def _next(state: Path) -> Path:
    return keep.root_file(state).with_name(_NEXT)


def _since(state: Path, step: Step) -> datetime | None:
    """When all regions had the step; None if that was not noted yet."""
    try:
        noted = json.loads(keep.root_file(state).with_name(_STEP).read_text())
        if noted["step"] != step.value:
            return None
        return datetime.fromtimestamp(noted["since_ms"] / 1000, UTC)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _note(state: Path, step: Step, now: datetime) -> None:
    path = keep.root_file(state).with_name(_STEP)
    if step is Step.NONE:
        path.unlink(missing_ok=True)
        return
    noted = {"step": step.value, "since_ms": int(now.timestamp() * 1000)}
    keep.replace(path, json.dumps(noted).encode(), 0o600)
