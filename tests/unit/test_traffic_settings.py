"""The `traffic` section of `mesh.yaml`: what it may say, and where it is wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from mesh.local.layout import Layout
from mesh.place import Place
from mesh.topology import Topology, TopologyError, load
from mesh.traffic import Bounds, Drill, Mirror, Traffic, Version, changes

HEAD = """\
version: 1
trust_domain: mesh.test
regions:
  - {name: eu, host: 127.0.0.1, base_port: 21000}
  - {name: us, host: 127.0.0.1, base_port: 21100}
workloads: [authority, shop, stock]
media: {root: media, origin: "127.0.0.1:21300"}
"""


def read(tmp_path: Path, section: str) -> Topology:
    file = tmp_path / "mesh.yaml"
    file.write_text(HEAD + section)
    return load(file)


@pytest.mark.parametrize("section", ["", "traffic:\n", "traffic: {}\n", "traffic: {bounds: }\n"])
def test_it_may_be_empty(tmp_path: Path, section: str) -> None:
    topology = read(tmp_path, section)
    assert topology.traffic.bounds_of("shop") == Bounds()


def test_bounds_are_a_workloads_and_what_is_not_said_is_the_default(tmp_path: Path) -> None:
    traffic = read(
        tmp_path, "traffic:\n  bounds:\n    shop: {requests: 10, retry_percent: 12.5, retries: 0}\n"
    ).traffic
    assert traffic.bounds_of("shop") == Bounds(requests=10, retry_percent=12.5, retries=0)
    assert traffic.bounds_of("stock") == Bounds()


VERSION = (
    'traffic:\n  versions:\n    - {workload: shop, version: next, region: eu, address: "h:1", '
)
DRILL = "traffic:\n  drills:\n    - name: slow\n      workload: shop\n      percent: 5\n"
UNTIL = "      until: 2026-01-31T12:00:00Z\n"


def test_versions_mirrors_and_drills_are_typed(tmp_path: Path) -> None:
    traffic = read(
        tmp_path,
        VERSION
        + "weight: 10}\n"
        + "  mirrors:\n    - {method: a.v1.S/M, percent: 1.5, version: next}\n"
        + "    - {method: a.v1.S/N, percent: 100, region: us, effects: true}\n"
        + DRILL.removeprefix("traffic:\n")
        + UNTIL
        + "      delay: 0.5\n      abort: UNAVAILABLE\n      callers: [stock, edge]\n",
    ).traffic
    assert traffic.versions == (Version("shop", "next", "eu", "h", 1, 10),)
    assert traffic.version("shop", "us", "next") is None
    assert traffic.mirrors == (
        Mirror("a.v1.S/M", 1.5, version="next"),
        Mirror("a.v1.S/N", 100.0, region="us", effects=True),
    )
    until = datetime(2026, 1, 31, 12, tzinfo=UTC)
    (drill,) = traffic.drills
    assert drill == Drill("slow", "shop", until, 5.0, 0.5, "UNAVAILABLE", callers=("stock", "edge"))
    assert [v.line for v in (*traffic.versions, *traffic.mirrors, drill)] == [10, 12, 13, 15]
    assert str(drill) == (
        "DRILL slow: 5 % of the calls of shop, all methods by stock, edge 0.5 s later and fail "
        "with UNAVAILABLE, until 2026-01-31T12:00:00+00:00"
    )


def test_a_version_is_an_instance_with_a_program_of_its_own(tmp_path: Path) -> None:
    topology = read(tmp_path, VERSION + "weight: 0, command: [../next/bin/shop, --new]}\n")
    (version,) = topology.traffic.versions
    assert version.command == ("../next/bin/shop", "--new")
    assert topology.instances("eu") == ("authority", "shop", "stock", "edge", "shop@next")
    assert topology.instances("us") == ("authority", "shop", "stock", "edge")
    place = Layout.of(topology).place("eu", "shop@next")
    assert (place.workload, place.version, place.instance) == ("shop", "next", "shop@next")
    assert Place.from_environment(place.environment()) == place


def test_changes_are_said_in_words(tmp_path: Path) -> None:
    before = read(tmp_path, "traffic: {bounds: {shop: {requests: 9}}}\n").traffic
    after = read(tmp_path, DRILL + UNTIL + "      delay: 1\n").traffic
    assert list(changes(before, after)) == [
        "bounds of shop: requests is 65536, was 9",
        f"{after.drills[0]} (mesh.yaml:10)",
    ]
    assert list(changes(after, Traffic())) == [f"no longer: {after.drills[0]}"]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (VERSION + "weight: 101}\n", r"mesh.yaml:10: .*weight: write a whole number from 0 to 100"),
        (
            VERSION + "weight: 1}\n    - 5\n",
            r"mesh.yaml:11: traffic.versions\[1\]: write a mapping",
        ),
        (
            VERSION.replace("h:1", "h") + "weight: 1}\n",
            r"mesh.yaml:10: traffic.versions\[0\].address: write host:port",
        ),
        (VERSION.replace("eu", "ap") + "weight: 1}\n", r"mesh.yaml:10: .*'ap' is none of eu, us"),
        (VERSION.replace("shop", "authority") + "weight: 1}\n", r"authority belongs to the mesh"),
        (
            "traffic:\n  mirrors:\n    - {method: a.v1.S/M, percent: 5}\n",
            r"mesh.yaml:10: traffic.mirrors\[0\]: say to which `version`, or to which `region`",
        ),
        (
            "traffic:\n  mirrors:\n    - {method: a.v1.S/M, percent: 5, version: old}\n",
            r"mesh.yaml:10: traffic.mirrors\[0\].version: 'old' is none of those that exist",
        ),
        (
            "traffic:\n  mirrors:\n    - {method: M, percent: 5, region: us}\n",
            r"mesh.yaml:10: .* write a method in full",
        ),
        (DRILL + UNTIL, r"mesh.yaml:10: traffic.drills\[0\]: say what happens"),
        (DRILL + "      delay: 1\n", r"mesh.yaml:10: .*'until' is missing"),
        (
            DRILL + "      delay: 1\n      until: 2026-01-31T12:00:00\n",
            r"mesh.yaml:14: .*until: write when it ends, with its time zone",
        ),
        (DRILL + UNTIL + "      abort: OK\n", r"mesh.yaml:14: .*'OK' is none of CANCELLED"),
        (DRILL + UNTIL + "      delay: 61\n", r"mesh.yaml:14: .*from 0.001 to 60"),
        (
            DRILL + UNTIL + "      delay: 1\n      callers: []\n",
            r"mesh.yaml:15: .*name at least one",
        ),
        (
            DRILL + UNTIL + "      delay: 1\n      regions: [eu]\n      callers: [stock]\n",
            r"mesh.yaml:15: .*leave one out",
        ),
        ("traffic: 5\n", r"mesh.yaml:8: traffic: write a mapping"),
        ("traffic:\n  bonds: {}\n", r"mesh.yaml:9: traffic: unknown key 'bonds'"),
        (
            "traffic:\n  bounds:\n    shop: {}\n    shoe: {}\n",
            r"mesh.yaml:11: traffic.bounds.shoe: 'shoe' is none of `workloads`",
        ),
        (
            "traffic:\n  bounds:\n    shop:\n      requests: 3\n      retries: many\n",
            r"mesh.yaml:12: traffic.bounds.shop.retries: write a whole number from 0",
        ),
        (
            "traffic:\n  bounds:\n    shop: {retry_percent: 101}\n",
            r"mesh.yaml:10: traffic.bounds.shop.retry_percent: write a number from 0 to 100",
        ),
        ("traffic:\n  bounds:\n    shop: {requests: 0}\n", r"mesh.yaml:10: .* from 1 to"),
        ("traffic:\n  bounds:\n    shop: {ejected_for: .nan}\n", r"mesh.yaml:10: .* from 0.1"),
        (
            "traffic:\n  bounds:\n    shop: {}\n    shop: {}\n",
            r"mesh.yaml:11: traffic.bounds: 'shop' is there twice",
        ),
        ("traffic:\n  bounds:\n    shop: {sum: 1}\n", r"mesh.yaml:10: .*unknown key 'sum'; it has"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, section: str, said: str) -> None:
    with pytest.raises(TopologyError, match=said):
        read(tmp_path, section)
