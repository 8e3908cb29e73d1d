"""mesh.yaml: what it says, and how a wrong one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.topology import Address, MemberSpec, TopologyError, load

GOOD = """\
version: 1
trust_domain: isthmus.test
regions:
  - {name: eu, host: 127.0.0.1, base_port: 21000}
  - {name: us, host: 127.0.0.1, base_port: 21100}
  - {name: ap, host: 127.0.0.2, base_port: 21000}
workloads: [authority, devices, channels]
devices:
  - {id: encoder-1, region: eu, capacity: 2}
media: {root: media, origin: "127.0.0.1:21300"}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mesh.yaml"
    path.write_text(text)
    return path


def test_every_listener_has_an_address_of_its_own(tmp_path: Path) -> None:
    topology = load(write(tmp_path, GOOD))
    listeners = ("edge", *topology.workloads)
    addresses = [topology.enrolment(name) for name in topology.region_names]
    addresses += [
        topology.route(source, target, listener)
        for source in topology.region_names
        for target in topology.region_names
        for listener in listeners
    ]
    assert len(set(addresses)) == len(addresses)


def test_within_a_region_the_way_is_the_listener_itself(tmp_path: Path) -> None:
    topology = load(write(tmp_path, GOOD))
    assert topology.route("eu", "eu", "devices") == topology.inbound("eu", "devices")
    assert topology.route("eu", "us", "devices").host == "127.0.0.1"
    assert topology.inbound("ap", "edge") == Address("127.0.0.2", 21000)


def test_failover_goes_round_from_the_home_region(tmp_path: Path) -> None:
    topology = load(write(tmp_path, GOOD))
    assert topology.failover_order("us") == ("us", "ap", "eu")


def test_the_projects_own_topology_is_read() -> None:
    topology = load(Path(__file__).parents[2] / "mesh.yaml")
    assert topology.region_names == ("eu", "us", "ap")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("regions:", "regions: a: b", ":3:11: not valid YAML: mapping values are not allowed here"),
        ("  - {name: us", "\t- {name: us", ":5:1: not valid YAML: found character '\\t' that"),
        (
            "{root: media",
            "{root: 'media",
            ":11:1: not valid YAML: found unexpected end of stream. "
            "It belongs to what begins at line 10, column 15: is a quote",
        ),
        ("version: 1", "version: \x01", ":1:10: not valid YAML: the character U+0001"),
        ("version: 1", "version: !!python/name:os.system", ":1:10: not valid YAML: could not"),
    ],
)
def test_what_is_not_yaml_is_one_line_with_its_place(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(TopologyError) as refused:
        load(path)
    message = str(refused.value)
    assert message.startswith(f"{path}{says}")
    assert "\n" not in message and "unicode string" not in message


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version: 1", "version: 2", "version: 1"),
        ("name: us", "name: device", "'device' is taken"),
        ("base_port: 21100", "base_port: 21050", "overlaps eu"),
        ("base_port: 21100", "base_port: 80", "from 1024"),
        ("name: us", "name: eu", "twice"),
        ("name: us", "name: U_S", "lower-case"),
        ("region: eu, capacity", "region: mars, capacity", "none of `regions`"),
        ("capacity: 2", "capacity: 0", "from 1 to 64"),
        ("[authority, devices, channels]", "[authority, edge]", "'edge' is taken"),
        ("trust_domain", "trustdomain", "unknown key 'trustdomain'"),
        ('"127.0.0.1:21300"', "nowhere", "host:port"),
        ("version: 1", "version: [", "mesh.yaml:"),
    ],
)
def test_a_wrong_file_says_where_and_what_to_write(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    with pytest.raises(TopologyError, match=r"mesh\.yaml") as caught:
        load(write(tmp_path, GOOD.replace(old, new, 1)))
    assert says in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="does not exist: run this where"):
        load(tmp_path / "mesh.yaml")


def test_an_unknown_region_is_told_which_exist(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="eu, us, ap"):
        load(write(tmp_path, GOOD)).edge("mars")


def test_members_are_decided_in_the_first_region_unless_said(tmp_path: Path) -> None:
    assert load(write(tmp_path, GOOD)).members == MemberSpec("eu")
    given = GOOD + "members: {home: us, silent_after: 60, held_bytes: 1000}\n"
    assert load(write(tmp_path, given)).members == MemberSpec("us", 60, 1000)


@pytest.mark.parametrize(
    "members, message",
    [
        ("{home: mars}", r"members\.home: write one of eu, us, ap"),
        ("{silent_after: 0}", r"members\.silent_after: write a number of seconds"),
        ("{held_bytes: much}", r"members\.held_bytes: write a number of bytes"),
        ("{limit: 3}", "limit"),
    ],
)
def test_limits_that_cannot_be_are_refused(tmp_path: Path, members: str, message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        load(write(tmp_path, GOOD + f"members: {members}\n"))
