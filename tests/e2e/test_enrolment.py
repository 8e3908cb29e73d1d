"""First certificates and renewals, with the real authority behind its real sidecar."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from isthmus.mesh.v1 import authority_pb2, authority_pb2_grpc

from mesh import topology as topologies
from mesh.agent import EnrolmentRefused, Sidecar
from mesh.agent.sidecar import utc_now
from mesh.authority import Prepared, device_token, prepare, renew_issuer, roots
from mesh.authority.roots import Step
from mesh.contracts.read import load
from mesh.identity import authority, enrolment, folder, keys
from mesh.identity.errors import TokenRefused
from mesh.identity.spiffe import WorkloadId
from mesh.place import Place
from mesh.topology import Topology
from tests.support.ports import free_blocks

pytestmark = pytest.mark.e2e


@dataclass
class Region:
    """One region with nothing but its authority."""

    topology: Topology
    state: Path
    run: Path
    prepared: Prepared
    sidecars: list[Sidecar] = field(default_factory=list)

    def place(self, workload: str) -> Place:
        return Place(
            "eu",
            workload,
            self.topology.path,
            self.run / workload,
            self.state / "eu" / workload,
        )

    def sidecar(self, workload: str) -> Sidecar:
        return Sidecar(load(), self.topology, self.place(workload))


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Region]:
    run = Path(tempfile.mkdtemp(prefix="ist-"))  # sockets need a short path
    (base,) = free_blocks(1)
    file = tmp_path / "mesh.yaml"
    file.write_text(
        f"""
version: 1
trust_domain: mesh.test
regions: [{{name: eu, host: 127.0.0.1, base_port: {base}}}]
workloads: [authority, devices, channels, overview]
media: {{root: media, origin: "127.0.0.1:{base + 99}"}}
"""
    )
    topology = topologies.load(file)
    state = tmp_path / "state"
    found = Region(topology, state, run, prepare(state, topology, "eu", utc_now()))
    place = found.place("authority")
    for needed in (place.run, place.data, place.logs):
        needed.mkdir(parents=True, exist_ok=True)
    sidecar = found.sidecar("authority")
    with (place.logs / "service.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mesh.authority.main"),
            env={**os.environ, **place.environment()},
            stdout=log,
            stderr=log,
        )
    try:
        found.sidecars.append(sidecar)
        await sidecar.start()
        yield found
    finally:
        await sidecar.kill()
        if process.returncode is None:
            process.kill()
        await process.wait()
        shutil.rmtree(run)


async def test_a_sidecar_enrols_renews_and_lives_on_without_its_token(region: Region) -> None:
    token = region.prepared.tokens["channels"]
    sidecar = region.sidecar("channels")
    try:
        await sidecar.start(token, ready_within=60)
        first = folder.read(region.place("channels").identity)
        assert first.spiffe_id == WorkloadId("mesh.test", "eu", "channels").uri
        assert first.not_after - first.not_before <= timedelta(hours=1, minutes=3)
        await sidecar.rotate()
        second = folder.read(region.place("channels").identity)
        assert second.key_pem != first.key_pem
        assert sidecar.status.rotations == 1
        await sidecar.restart()
        assert folder.read(region.place("channels").identity) == second
    finally:
        await sidecar.kill()
    # The token was used; who has nothing but it stays outside.
    shutil.rmtree(region.place("channels").identity)
    again = region.sidecar("channels")
    with pytest.raises(EnrolmentRefused, match="unknown, used or expired: ask for a new one"):
        await again.start(token)


async def test_an_authority_signs_by_a_new_issuing_certificate_without_a_restart(
    region: Region,
) -> None:
    sidecar = region.sidecar("channels")
    held = region.place("channels").identity
    try:
        await sidecar.start(region.prepared.tokens["channels"], ready_within=60)
        issuers = [_issuer_of(held)]
        for _ in range(2):
            assert renew_issuer(region.state, region.topology, "eu", utc_now(), early=True)
            await sidecar.rotate()
            issuers.append(_issuer_of(held))
        assert len(set(issuers)) == 3
        # A token of before is good still: it is of the root, which is the same.
        edge = region.sidecar("edge")
        await edge.start(region.prepared.tokens["edge"], ready_within=60)
        await edge.kill()
    finally:
        await sidecar.kill()


async def test_a_root_is_replaced_while_everything_runs(region: Region) -> None:
    """Three steps; what was enrolled under the first root goes on, and tokens work after each."""
    sidecars = [region.sidecar("channels"), region.sidecar("edge")]
    authority_itself = region.sidecars[0]
    names = ("channels", "edge", "authority")
    try:
        for sidecar, name in zip(sidecars, names, strict=False):
            await sidecar.start(region.prepared.tokens[name], ready_within=60)
        pids = [each.pid for each in sidecars]
        (first,) = _roots(region.place("channels").identity)
        trusted = []
        assert roots.begin(region.state, region.topology, utc_now()) is Step.ANNOUNCED
        for number in range(3):
            # One after the other: who has renewed meets who has not.
            for sidecar in (*sidecars, authority_itself):
                await sidecar.rotate()
            trusted.append(_roots(region.place("channels").identity))
            token = device_token(region.state, region.topology, "eu", f"d-{number}", utc_now())
            await _enrolled(region, token)
            roots.advance(region.state, region.topology, utc_now(), early=True)
        second = trusted[-1][0]
        assert trusted == [[first, second], [second, first], [second]]
        assert folder.read(region.place("edge").identity).former_pem == first
        assert pids == [each.pid for each in sidecars]
    finally:
        for sidecar in sidecars:
            await sidecar.kill()


def _roots(identity: Path) -> list[bytes]:
    found = x509.load_pem_x509_certificates(folder.read(identity).trust_pem)
    return [authority.pem(each) for each in found]


def _issuer_of(identity: Path) -> bytes:
    """The issuing certificate that a leaf's chain brings along."""
    _, issuing = x509.load_pem_x509_certificates(folder.read(identity).chain_pem)
    return issuing.public_bytes(serialization.Encoding.DER)


async def test_an_edge_renews_through_an_egress_of_its_own(region: Region) -> None:
    sidecar = region.sidecar("edge")
    try:
        await sidecar.start(region.prepared.tokens["edge"], ready_within=60)
        await sidecar.rotate()
        held = folder.read(region.place("edge").identity)
        assert held.spiffe_id == WorkloadId("mesh.test", "eu", "edge").uri
    finally:
        await sidecar.kill()


async def test_a_token_goes_to_no_other_authority(region: Region) -> None:
    address = region.topology.enrolment("eu")
    await _enrolled(region, region.prepared.tokens["devices"])  # it is up
    root = authority.make_root("mesh.test", utc_now())
    good = device_token(region.state, region.topology, "eu", "encoder-1", utc_now())
    wrong_root = good.replace(region.prepared.root_hash, authority.fingerprint(root.certificate))
    with pytest.raises(TokenRefused, match="the token was not sent"):
        await enrolment.enrol(address.host, address.port, wrong_root)
    wrong_region = good.replace("isthmus1.eu", "isthmus1.us")
    with pytest.raises(TokenRefused, match="not the authority of region us"):
        await enrolment.enrol(address.host, address.port, wrong_region)
    # Nothing of that used it up.
    key = keys.make_key()
    for _ in range(2):  # as after an answer that was lost
        credentials = await enrolment.enrol(address.host, address.port, good, key)
        assert credentials.spiffe_id == "spiffe://mesh.test/device/encoder-1"
    with pytest.raises(TokenRefused, match="unknown, used or expired"):
        await enrolment.enrol(address.host, address.port, good)


@pytest.mark.proves("Role.ROLE_UNENROLLED")
async def test_the_enrolment_listener_takes_enrolments_alone_and_not_too_many(
    region: Region,
) -> None:
    await _enrolled(region, region.prepared.tokens["devices"])
    address = region.topology.enrolment("eu")
    root = (region.place("authority").identity / folder.TRUST).read_bytes()
    async with grpc.aio.secure_channel(
        str(address),
        grpc.ssl_channel_credentials(root),
        options=[("grpc.ssl_target_name_override", "authority.eu.mesh.test")],
    ) as channel:
        request = keys.signing_request(keys.make_key())
        stub = authority_pb2_grpc.AuthorityServiceStub(channel)
        # Claiming to be somebody does not help.
        claim = (("x-forwarded-client-cert", "URI=spiffe://mesh.test/operator/root"),)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Renew(authority_pb2.RenewRequest(signing_request=request), metadata=claim)
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
        guess = authority_pb2.EnrolRequest(signing_request=request)
        guess.join_token = "isthmus1.a.guess"  # noqa: S105  a guess
        enrols = authority_pb2_grpc.EnrolmentServiceStub(channel)
        # The sidecar answers: the service never sees so much from somebody unknown.
        huge = authority_pb2.EnrolRequest(join_token="x" * 200_000, signing_request=request)
        assert await _code(enrols.Enrol(huge)) is grpc.StatusCode.UNKNOWN
        codes = {await _code(enrols.Enrol(guess)) for _ in range(5)}
        assert codes == {grpc.StatusCode.UNAUTHENTICATED}
        many = await asyncio.gather(*(_code(enrols.Enrol(guess)) for _ in range(300)))
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in many


async def _code(call: grpc.aio.UnaryUnaryCall) -> grpc.StatusCode:
    return await call.code()


async def _enrolled(region: Region, token: str) -> None:
    """Uses a token; waits for the authority's process."""
    address = region.topology.enrolment("eu")
    async with asyncio.timeout(60):
        while True:
            try:
                await enrolment.enrol(address.host, address.port, token)
                return
            except enrolment.AuthorityUnreachable:
                await asyncio.sleep(0.2)
