"""What may be deployed, and what is at fault if it may not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from isthmus.options.v1 import options_pb2

from mesh.contracts.read import image
from mesh.control import Source
from mesh.control.compiled import unpack
from mesh.control.judge import Difference, Judged, Refused, judge
from mesh.xds.fleet import Instance
from mesh.xds.resources import Library
from tests.support.images import changed

NOW = Source(image(), (Path(__file__).parents[3] / "mesh.yaml").read_text())
CREATE = "isthmus.channels.v1.ChannelService/CreateChannel"
EU, US = Instance("eu", "channels"), Instance("us", "channels")


async def test_what_may_be_deployed_comes_compiled_with_its_differences() -> None:
    def slower(options: options_pb2.MethodContract) -> None:
        options.timeout.seconds = 9

    wanted = replace(NOW, image=changed(CREATE, slower))
    judged = await judge(NOW, wanted)
    assert set(judged.changed) == {
        Instance(region, workload)
        for region in ("eu", "us", "ap")
        for workload in ("channels", "edge")
    }
    (difference,) = judged.differences
    assert difference.subject == CREATE
    assert "isthmus/channels/v1/channels.proto:" in difference.text
    for region in ("eu", "us", "ap"):
        revision = unpack(judged.compiled[region], Library())
        assert revision.name == wanted.name
        assert {each.region for each in revision.snapshots} == {region}


async def test_other_regions_are_no_deploy() -> None:
    fewer = NOW.topology_text.replace(
        "  - {name: ap, host: 127.0.0.1, base_port: 21200}\n", ""
    ).replace("region: ap", "region: us")
    with pytest.raises(Refused, match="this mesh has the regions eu, us, ap: to change those"):
        await judge(NOW, replace(NOW, topology_text=fewer))


async def test_what_is_no_contract_is_told() -> None:
    with pytest.raises(Refused, match=r"cannot be judged: .*DecodeError"):
        await judge(NOW, replace(NOW, image=b"\xff\xff"))


def test_blame_goes_to_the_method_then_to_the_sidecar() -> None:
    one = Difference("a.A/One", "a.A/One: slower (a.proto:1)", frozenset({EU}))
    two = Difference("a.A/Two", "a.A/Two: denied (a.proto:2)", frozenset({EU, US}))
    judged = Judged({}, (EU, US), (), (one, two))
    assert judged.blame(US, "/a.A/One") == (one.text,)
    assert judged.blame(US, "/a.A/Else") == (two.text,)
    assert judged.blame(Instance("ap", "edge"), "") == (one.text, two.text)
