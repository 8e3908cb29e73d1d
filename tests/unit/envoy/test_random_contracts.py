"""A hundred random legal contracts are accepted by Envoy, a hundred illegal ones refused by lint.

Seeded: the same contracts each time. Many go through one Envoy, which takes most of its time to
start: each contract's resources get names, ports and sockets of their own.
"""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from mesh import topology as topologies
from mesh.agent.sidecar import utc_now
from mesh.contracts import ContractError
from mesh.contracts.read import read
from mesh.envoy import EnvoyConfigError, compile_for, validate, write_credentials
from mesh.identity import authority, keys
from mesh.identity import folder as identity_folder
from mesh.identity.spiffe import WorkloadId
from mesh.place import EDGE, Place
from mesh.topology import Topology
from tests.unit.contracts.protos import HEAD, compiled

CONTRACTS = 100
AT_ONCE = 25
MARK = "// HERE"
WORKLOADS = ("orders", "stock", "shop")

FAULTS = {
    "RETRY_NOT_IDEMPOTENT": (
        "",
        "timeout: {seconds: 3} retry: {attempts: 2 per_try: {seconds: 1}}",
    ),
    "RETRY_INCOMPLETE": (
        "idempotency_level = IDEMPOTENT",
        "timeout: {seconds: 3} retry: {attempts: 2}",
    ),
    "RETRY_BEYOND_TIMEOUT": (
        "idempotency_level = IDEMPOTENT",
        "timeout: {seconds: 3} retry: {attempts: 9 per_try: {seconds: 1}}",
    ),
    "TIMEOUT_MISSING": ("", "locality: LOCALITY_LOCAL"),
    "CALLER_UNKNOWN": ("", 'timeout: {seconds: 3} callers: {workloads: "nobody"}'),
    "ROLE_UNSPECIFIED": ("", "timeout: {seconds: 3} callers: {roles: ROLE_UNSPECIFIED}"),
    "ROLE_UNENROLLED": ("", "timeout: {seconds: 3} callers: {roles: ROLE_UNENROLLED}"),
    "PEERS_NOT_PINNED": ("", "timeout: {seconds: 3} callers: {peers: true}"),
    "RATE_LIMIT_INCOMPLETE": ("", "timeout: {seconds: 3} rate_limit: {burst: 2}"),
    "PROMISE_WITHOUT_GROUP": ("", "timeout: {seconds: 3} durability: DURABILITY_MAJORITY"),
}
"""One broken method for each rule: an option before its contract, and what the contract says."""


def method(pick: random.Random, name: str, workload: str, most: int) -> str:
    """A legal method with whatever a contract may say of it, and `most` attempts."""
    streaming = pick.random() < 0.25
    level = pick.choice(["", "NO_SIDE_EFFECTS", "IDEMPOTENT"])
    says: list[str] = []
    attempts, per_try = pick.randint(1, most), pick.randint(1, 3)
    if streaming:
        says.append(f"stream_max_age: {{seconds: {pick.randint(1, 3600)}}}")
    else:
        says.append("timeout: {seconds: 20}")  # a caller's is no shorter than its callee's
        if level and attempts > 1:
            says.append(f"retry: {{attempts: {attempts} per_try: {{seconds: {per_try}}}}}")
    locality = pick.choice(["LOCAL", "NEAREST", "PINNED"])
    callers = [f'workloads: "{w}"' for w in WORKLOADS if w != workload and pick.random() < 0.5]
    if locality == "PINNED":
        callers += ["peers: true"] if pick.random() < 0.5 else []
    else:
        callers += [f"roles: ROLE_{r}" for r in ("OPERATOR", "DEVICE") if pick.random() < 0.4]
    callers += ["any_workload: true"] if pick.random() < 0.1 else []
    says += [f"callers: {{{' '.join(callers)}}}", f"locality: LOCALITY_{locality}"]
    if pick.random() < 0.3:
        says.append(
            f"rate_limit: {{per_second: {pick.randint(1, 9999)} burst: {pick.randint(1, 999)}}}"
        )
    answer = "stream Thing" if streaming else "Thing"
    idempotency = f"    option idempotency_level = {level};\n" if level else ""
    return (
        f"  rpc {name}(Thing) returns ({answer}) {{\n{idempotency}"
        f"    option (isthmus.options.v1.method) = {{ {' '.join(says)} }};\n  }}\n"
    )


def contract(pick: random.Random, broken: str = "") -> str:
    """A random contract; with a broken method in it if that is given."""
    text = HEAD + "message Thing { string name = 1; }\n"
    victim = pick.choice(WORKLOADS)
    # Along a chain of all three, attempts multiply to ten at most.
    each_two = not broken and pick.random() < 0.5
    for workload in WORKLOADS:
        most = 2 if each_two else 4 if workload == victim else 1
        methods = [method(pick, f"Do{i}", workload, most) for i in range(pick.randint(1, 5))]
        if broken and workload == victim:
            methods.insert(pick.randint(0, len(methods)), broken)
        text += (
            f"service {workload.title()}Service {{\n"
            f'  option (isthmus.options.v1.service) = {{workload: "{workload}" owner: "a" '
            f'runbook: "b"}};\n{"".join(methods)}}}\n'
        )
    return text


def illegal(pick: random.Random, rule: str) -> str:
    option, says = FAULTS[rule]
    before = f"    option {option};\n" if option else ""
    return contract(
        pick,
        f"  rpc Broken(Thing) returns (Thing) {{\n{before}"
        f"    option (isthmus.options.v1.method) = {{ {says} }}; {MARK}\n  }}\n",
    )


@cache
def cases() -> dict[str, tuple[str, str]]:
    """Name -> the rule that is broken, or none, and the text."""
    pick = random.Random(20260131)  # noqa: S311  a seed that replays
    found = {f"legal{i}": ("", contract(pick)) for i in range(CONTRACTS)}
    rules = sorted(FAULTS)
    for i in range(CONTRACTS):
        rule = rules[i % len(rules)]
        found[f"illegal{i}"] = (rule, illegal(pick, rule))
    return found


@cache
def descriptors() -> dict[str, descriptor_pb2.FileDescriptorSet]:
    return compiled({name: text for name, (_, text) in cases().items()})


def test_a_hundred_illegal_contracts_are_refused_with_their_line() -> None:
    for name, (rule, text) in cases().items():
        if not rule:
            continue
        with pytest.raises(ContractError) as refused:
            read(descriptors()[name], regions=2)
        (line,) = (i for i, each in enumerate(text.splitlines(), 1) if MARK in each)
        found = {(finding.rule, finding.line) for finding in refused.value.findings}
        lines = {where for broken, where in found if broken == rule}
        # The option's line, or that of the method which lacks it.
        assert lines and lines <= {line - 2, line - 1, line}, (name, rule, line, found)
        assert {broken for broken, _ in found} <= {rule, "TIMEOUT_BELOW_DEPENDENCY"}, (name, found)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Somewhere with an identity, which Envoy looks into."""
    folder = tmp_path_factory.mktemp("random")
    now = utc_now()
    root, key = authority.make_root("mesh.test", now), keys.make_key()
    where = Place("eu", "orders", folder / "mesh.yaml", folder, folder)
    leaf = authority.sign(
        root, keys.signing_request(key), WorkloadId("mesh.test", "eu", "orders"), now
    )
    identity_folder.write(where.identity, leaf.chain_pem, keys.key_pem(key), leaf.trust_pem)
    write_credentials(where)
    where.logs.mkdir()
    return where


@pytest.fixture(scope="module")
def topology(place: Place) -> Topology:
    place.topology.write_text(
        "version: 1\ntrust_domain: mesh.test\nregions:\n"
        "  - {name: eu, host: 127.0.0.1, base_port: 21000}\n"
        "  - {name: us, host: 127.0.0.1, base_port: 21100}\n"
        f"workloads: [{', '.join(WORKLOADS)}]\n"
        'media: {root: media, origin: "127.0.0.1:21300"}\n'
    )
    return topologies.load(place.topology)


def own(value: Any, tag: str, port: int) -> Any:
    """The same resources under names, ports and sockets that no other contract's have."""
    if isinstance(value, dict):
        return {
            key: f"{tag}{found}"
            if key in ("cluster", "cluster_name") and isinstance(found, str)
            else port
            if key == "port_value"
            else f"{found}.{tag}"
            if key == "path" and isinstance(found, str) and found.endswith("egress.sock")
            else own(found, tag, port)
            for key, found in value.items()
        }
    return [own(each, tag, port) for each in value] if isinstance(value, list) else value


def together(names: list[str], topology: Topology, place: Place) -> dict[str, Any]:
    """One bootstrap with an inbound, an egress and an edge of each contract."""
    listeners, clusters, whole = [], [], {}
    for at, name in enumerate(names):
        found = read(descriptors()[name], regions=2)
        for role, workload in enumerate((WORKLOADS[at % len(WORKLOADS)], EDGE)):
            where = Place(place.region, workload, place.topology, place.run, place.state)
            document = json.loads(compile_for(found, topology, where).bootstrap)
            tag = f"{name}-{workload}-"
            made = own(document.pop("static_resources"), tag, 30000 + 2 * at + role)
            whole = document
            for kind, into in (("listeners", listeners), ("clusters", clusters)):
                into += [{**each, "name": f"{tag}{each['name']}"} for each in made[kind]]
    return whole | {"static_resources": {"listeners": listeners, "clusters": clusters}}


@pytest.mark.parametrize("first", range(0, CONTRACTS, AT_ONCE))
def test_a_hundred_legal_contracts_are_accepted_by_envoy(
    first: int, topology: Topology, place: Place
) -> None:
    names = [f"legal{i}" for i in range(first, first + AT_ONCE)]
    bootstrap = place.state / "envoy" / "together.json"
    document = together(names, topology, place)
    bootstrap.write_text(json.dumps(document))
    validate(bootstrap)


def test_envoy_really_judges_what_is_put_together(topology: Topology, place: Place) -> None:
    document = together(["legal0"], topology, place)
    document["static_resources"]["clusters"] = document["static_resources"]["clusters"][1:]
    bootstrap = place.state / "envoy" / "broken.json"
    bootstrap.write_text(json.dumps(document))
    with pytest.raises(EnvoyConfigError):
        validate(bootstrap)
