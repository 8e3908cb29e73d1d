"""When a device that `isthmus up` runs needs a join token."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mesh.authority import keep, prepare
from mesh.identity import authority, keys
from mesh.identity.enrolment import Credentials
from mesh.identity.spiffe import DeviceId
from mesh.local.device import Device
from mesh.local.layout import Layout
from mesh.topology import Address, DeviceSpec, Region, Topology

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SPEC = DeviceSpec("encoder-1", "eu", 1)


@pytest.fixture
def topology(tmp_path: Path) -> Topology:
    return Topology(
        path=tmp_path / "mesh.yaml",
        trust_domain="isthmus.test",
        regions=(Region("eu", "127.0.0.1", 21000),),
        workloads=("authority", "devices"),
        devices=(SPEC,),
        media_root=tmp_path,
        origin=Address("127.0.0.1", 1),
        otlp=None,
    )


def _enrol(layout: Layout, now: datetime) -> None:
    issuer = keep.load(keep.data_folder(layout.state, "eu") / keep.ISSUING)
    assert issuer is not None
    key = keys.make_key()
    subject = DeviceId("isthmus.test", "encoder-1")
    leaf = authority.sign(issuer, keys.signing_request(key), subject, now)
    Credentials(
        subject.uri, leaf.chain_pem, keys.key_pem(key), leaf.trust_pem, leaf.not_after
    ).write(layout.device("encoder-1") / "identity")


def test_it_is_enrolled_while_its_certificate_lasts(topology: Topology) -> None:
    layout = Layout.of(topology)
    device = Device(layout, SPEC, lambda _: None, lambda: None)
    assert not device.enrolled(NOW)
    prepare(layout.state, topology, "eu", NOW)
    _enrol(layout, NOW)
    assert device.enrolled(NOW)
    assert not device.enrolled(NOW + timedelta(minutes=58))


def test_after_a_new_root_it_enrols_again(topology: Topology) -> None:
    layout = Layout.of(topology)
    device = Device(layout, SPEC, lambda _: None, lambda: None)
    prepare(layout.state, topology, "eu", NOW)
    _enrol(layout, NOW)
    keep.root_file(layout.state).unlink()
    prepare(layout.state, topology, "eu", NOW)
    assert not device.enrolled(NOW)
    _enrol(layout, NOW)
    assert device.enrolled(NOW)
