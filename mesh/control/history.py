"""Deploys as the group keeps them: how one begins and ends, and what is remembered.

The functions run inside a write of the group's, in the region that decides.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping

from isthmus.mesh.v1 import rollout_pb2 as pb

from mesh.control.follower import MESH
from mesh.control.source import Source
from mesh.replication import Transaction
from mesh.runtime.errors import FailedPrecondition, Unavailable
from mesh.xds.fleet import Instance

REMEMBERED = 50
"""Deploys that are listed."""

KEPT = 8
"""Revisions that one can go back to."""

RUNNING = (pb.DEPLOY_PHASE_PREPARING, pb.DEPLOY_PHASE_WAITING, pb.DEPLOY_PHASE_WATCHING)


def install(tx: Transaction, installed: str, good: str, actor: str) -> pb.Rollout:
    """Notes what an installation brought, and ends what was on trial before it."""
    rollout = tx.get(pb.Rollout, MESH)
    if rollout is None:
        rollout = pb.Rollout(rollout_id=MESH)
        tx.create(rollout)
        rollout = tx.get(pb.Rollout, MESH) or rollout
    if rollout.state.deploy_id:
        deploy = tx.get(pb.Deploy, rollout.state.deploy_id)
        if deploy is not None:
            reason = "the control plane that decides was restarted during the deploy"
            close(tx, deploy, pb.DEPLOY_PHASE_ROLLED_BACK, reason)
        rollout = tx.get(pb.Rollout, MESH) or rollout
    if rollout.state.installed != installed:
        record = pb.DeployRecord(
            kind=pb.DEPLOY_KIND_INSTALL,
            revision=good,
            previous=rollout.state.good,
            actor=actor,
            phase=pb.DEPLOY_PHASE_CONFIRMED,
        )
        for moment in (record.begun, record.ended):
            moment.FromMilliseconds(tx.now_ms)
        tx.create(pb.Deploy(deploy_id=_id(tx, installed), record=record))
        rollout.state.CopyFrom(pb.RolloutState(installed=installed, good=good))
        tx.set(rollout, "state")
    return rollout


def begin(tx: Transaction, kind: pb.DeployKind.ValueType, revision: str, actor: str) -> pb.Deploy:
    """Begins a deploy. Raises `FailedPrecondition` while another one runs, `Unavailable`."""
    rollout = _rollout(tx)
    state = rollout.state
    _none_runs(tx, state)
    if revision == state.good:
        raise FailedPrecondition(
            f"revision {revision} is what runs: there is nothing to deploy",
            reason="NOTHING_TO_DEPLOY",
        )
    record = pb.DeployRecord(
        kind=kind,
        revision=revision,
        previous=state.good,
        actor=actor,
        phase=pb.DEPLOY_PHASE_PREPARING,
    )
    record.begun.FromMilliseconds(tx.now_ms)
    deploy = pb.Deploy(deploy_id=_id(tx, revision), record=record)
    tx.create(deploy)
    state.deploy_id = deploy.deploy_id
    tx.set(rollout, "state")
    return tx.get(pb.Deploy, deploy.deploy_id) or deploy


def advance(
    tx: Transaction,
    deploy: pb.Deploy,
    stage: str,
    instances: Collection[Instance],
    *,
    watching: bool,
) -> pb.Deploy:
    """Gives the revision to the sidecars of a stage, or notes that they have it."""
    rollout = _rollout(tx)
    rollout.state.trial = deploy.record.revision
    del rollout.state.stage[:]
    for each in sorted(instances):
        rollout.state.stage.add(region=each.region, workload=each.workload)
    tx.set(rollout, "state")
    deploy.record.stage = stage
    deploy.record.phase = pb.DEPLOY_PHASE_WATCHING if watching else pb.DEPLOY_PHASE_WAITING
    tx.set(deploy, "record")
    return deploy


def close(
    tx: Transaction,
    deploy: pb.Deploy,
    phase: pb.DeployPhase.ValueType,
    reason: str = "",
    blame: Iterable[str] = (),
) -> pb.Deploy:
    """Ends a deploy: what it tried is good for all, or for nobody."""
    rollout = _rollout(tx)
    good = rollout.state.good
    if phase == pb.DEPLOY_PHASE_CONFIRMED:
        good = deploy.record.revision
    rollout.state.CopyFrom(pb.RolloutState(installed=rollout.state.installed, good=good))
    tx.set(rollout, "state")
    deploy.record.phase = phase
    deploy.record.reason = reason
    del deploy.record.blame[:]
    deploy.record.blame.extend(blame)
    deploy.record.ended.FromMilliseconds(tx.now_ms)
    tx.set(deploy, "record")
    _forget(tx, good)
    return deploy


def move_home(tx: Transaction, to: str) -> pb.Rollout:
    """Gives the decisions to another region.

    Raises `FailedPrecondition` while a deploy runs, `Unavailable`, and what a move of a home does.
    """
    rollout = _rollout(tx)
    if rollout.home != to:
        _none_runs(tx, rollout.state)
        _move(tx, rollout.home, to)
    return _rollout(tx)


def take_home(tx: Transaction, region: str) -> pb.Rollout:
    """Takes the decisions to the region that writes this, and ends the deploy that runs.

    Raises `Unavailable`, and what a move of a home does.
    """
    rollout = _rollout(tx)
    if rollout.home == region:
        return rollout
    lost = rollout.home
    _move(tx, lost, region, take=True)
    running = tx.get(pb.Deploy, rollout.state.deploy_id) if rollout.state.deploy_id else None
    if running is not None:
        reason = f"{region} has taken the decisions from {lost}"
        close(tx, running, pb.DEPLOY_PHASE_ROLLED_BACK, reason)
    return _rollout(tx)


def _move(tx: Transaction, home: str, to: str, *, take: bool = False) -> None:
    """Moves the rollout, and what is remembered: whoever decides forgets it in the end."""
    tx.move_home(pb.Rollout, MESH, to, take=take)
    for each in tx.list(pb.Deploy):
        if take or each.home == home:
            tx.move_home(pb.Deploy, each.deploy_id, to, take=take)


def keep(tx: Transaction, source: Source, compiled: Mapping[str, bytes]) -> pb.DeployedRevision:
    """Keeps a revision, for all regions to serve."""
    revision = pb.DeployedRevision(
        name=source.name,
        contract=zlib.compress(source.image),
        topology=source.topology_text,
        compiled={region: zlib.compress(data) for region, data in compiled.items()},
    )
    if tx.get(pb.DeployedRevision, source.name) is not None:
        tx.put(pb.DeployedRevision, source.name, "compiled", dict(revision.compiled))
    else:
        tx.create(revision)
    return revision


def listed(deploys: Iterable[pb.Deploy]) -> list[pb.Deploy]:
    """The last one first."""
    return sorted(deploys, key=lambda each: each.deploy_id, reverse=True)


def kept(deploys: Iterable[pb.Deploy], good: str) -> frozenset[str]:
    """The revisions that one can go back to."""
    names = dict.fromkeys(each.record.revision for each in listed(deploys))
    return frozenset([good, *list(names)[:KEPT]])


def _forget(tx: Transaction, good: str) -> None:
    deploys = tx.list(pb.Deploy)
    for each in listed(deploys)[REMEMBERED:]:
        tx.delete(pb.Deploy, each.deploy_id)
    keeping = kept(deploys, good)
    for revision in tx.list(pb.DeployedRevision):
        if revision.name not in keeping:
            tx.delete(pb.DeployedRevision, revision.name)


def _none_runs(tx: Transaction, state: pb.RolloutState) -> None:
    """Raises `FailedPrecondition` while a deploy runs."""
    if not state.deploy_id:
        return
    running = tx.get(pb.Deploy, state.deploy_id)
    record = running.record if running is not None else pb.DeployRecord()
    raise FailedPrecondition(
        f"{record.actor} deploys revision {record.revision} since "
        f"{record.begun.ToJsonString()}: wait for its end, or end it with "
        "`isthmus mesh rollback`",
        reason="DEPLOY_RUNNING",
        metadata={"deploy": state.deploy_id, "actor": record.actor},
    )


def _rollout(tx: Transaction) -> pb.Rollout:
    rollout = tx.get(pb.Rollout, MESH)
    if rollout is None:
        raise Unavailable(
            "this mesh has decided nothing yet: the region that decides has not been up",
            reason="NO_ROLLOUT",
        )
    return rollout


def _id(tx: Transaction, revision: str) -> str:
    return f"{tx.now_ms:013d}-{revision}"
