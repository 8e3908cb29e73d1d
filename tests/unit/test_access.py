"""The `edge` section of mesh.yaml: what it says, and how a wrong one is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from mesh.access import Claim
from mesh.topology import TopologyError, load, whole
from tests.support.tokens import AUDIENCE, ISSUER, Issuer, encoded

REST = """\
version: 1
trust_domain: isthmus.test
regions: [{name: eu, host: 127.0.0.1, base_port: 21000}]
workloads: [channels]
media: {root: media, origin: "127.0.0.1:21300"}
"""
JWT = f"{{issuer: {ISSUER}, audience: {AUDIENCE}, keys: keys.json}}"


def write(folder: Path, section: str, keys: Any = None) -> Path:
    (folder / "keys.json").write_text(Issuer().key_set() if keys is None else keys)
    path = folder / "mesh.yaml"
    path.write_text(f"{REST}edge: {section}\n")
    return path


def one(**changes: Any) -> str:
    """A key set of one key, with something changed."""
    (key,) = json.loads(Issuer().key_set())["keys"]
    changed = {name: value for name, value in (key | changes).items() if value is not None}
    return json.dumps({"keys": [changed]})


def rsa_key(bits: int) -> str:
    # Factors are not looked at, so a modulus of any kind will do.
    modulus = ((1 << bits) - 1).to_bytes(bits // 8, "big")
    return json.dumps({"keys": [{"kty": "RSA", "n": encoded(modulus), "e": "AQAB"}]})


def _of(operators: str) -> str:
    return (
        f"{{jwt: {{issuer: {ISSUER}, audience: {AUDIENCE}, keys: keys.json, "
        f"operators: {operators}}}}}"
    )


@pytest.mark.parametrize("claim", ["groups", "[realm_access, roles]"])
def test_who_of_them_is_an_operator(tmp_path: Path, claim: str) -> None:
    found = load(write(tmp_path, _of(f"{{claim: {claim}, values: [live, night]}}"))).access
    assert found.jwt is not None
    path = ("groups",) if claim == "groups" else ("realm_access", "roles")
    assert found.jwt.operators == Claim(path, ("live", "night"))


def test_edges_are_for_certificates_alone_unless_said(tmp_path: Path) -> None:
    for section in ("", "{}", "{origins: []}"):
        access = load(write(tmp_path, section)).access
        assert access.certificates_only and not access.origins and access.jwt is None


def test_origins_and_an_issuer(tmp_path: Path) -> None:
    section = f"{{origins: ['https://a.example', 'http://localhost:8080'], jwt: {JWT}}}"
    access = load(write(tmp_path, section)).access
    assert access.origins == ("https://a.example", "http://localhost:8080")
    assert not access.certificates_only
    assert access.jwt is not None
    assert (access.jwt.issuer, access.jwt.audience) == (ISSUER, AUDIENCE)
    (key,) = json.loads(access.jwt.keys)["keys"]
    assert set(key) == {"kty", "crv", "kid", "alg", "use", "x", "y"}


def test_keys_of_rsa_are_taken(tmp_path: Path) -> None:
    numbers = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    key = {"kty": "RSA", "n": encoded(numbers.n.to_bytes(256, "big")), "e": "AQAB", "x5t": "left"}
    access = load(write(tmp_path, f"{{jwt: {JWT}}}", json.dumps({"keys": [key]}))).access
    assert access.jwt is not None
    assert set(json.loads(access.jwt.keys)["keys"][0]) == {"kty", "n", "e"}


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("[]", "edge: write a mapping"),
        ("{origin: []}", "unknown key 'origin'; it has origins, jwt"),
        ("{origins: https://a.example}", "edge.origins: write a list"),
        ("{origins: ['*']}", "edge.origins[0]: '*': write scheme, host and port"),
        ("{origins: ['https://a.example/']}", "without a path"),
        ("{origins: ['http://a.example']}", "http is for localhost alone"),
        ("{origins: ['https://a.example', 'https://a.example']}", "twice"),
        ("{jwt: {issuer: a, audience: b}}", "edge.jwt.keys: write a string"),
        ("{jwt: {issuer: a, keys: keys.json}}", "edge.jwt.audience: write a string"),
        ("{jwt: {audience: a, keys: keys.json}}", "edge.jwt.issuer: write a string"),
        ("{jwt: {issuer: a, audience: b, keys: other.json}}", "does not exist: fetch"),
        (_of("[live]"), "edge.jwt.operators: write a mapping"),
        (_of("{values: [live]}"), "edge.jwt.operators.claim: write a claim's name"),
        (_of("{claim: [], values: [live]}"), "edge.jwt.operators.claim: write a claim's name"),
        (_of("{claim: groups}"), "edge.jwt.operators.values: write a list"),
        (_of("{claim: groups, values: live}"), "edge.jwt.operators.values: write a list"),
        (_of("{claim: groups, values: []}"), "with none of them nobody would be an operator"),
        (_of("{claim: groups, values: [1]}"), "edge.jwt.operators.values: write a list"),
        (_of("{claim: groups, value: [live]}"), "unknown key 'value'"),
    ],
)
def test_a_wrong_section_says_where_and_what_to_write(
    tmp_path: Path, section: str, says: str
) -> None:
    with pytest.raises(TopologyError, match=r"mesh\.yaml: edge") as refused:
        load(write(tmp_path, section))
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("{", "is no JSON that can be read"),
        ("[]", "is no key set"),
        ('{"keys": []}', "is no key set"),
        (one(kty="oct", k="c2VjcmV0"), "whoever checks tokens by it can make them"),
        (one(kty="PGP"), "it must be RSA, EC or OKP"),
        (one(d="AAAA"), "has the private member `d`"),
        (one(alg="HS256"), "an EC key takes ES256"),
        (one(use="enc"), "only keys for signatures"),
        (one(crv="P-192"), "write one of P-256"),
        (one(x=None), "`x` is missing"),
        (one(y="?"), "no base64url"),
        (one(kid=1), "`kid` is no string"),
        (rsa_key(1024), "has 1024 bits: RSA keys need 2048"),
        (json.dumps({"keys": json.loads(one())["keys"] * 2}), "a `kid` of its own"),
    ],
)
def test_a_wrong_key_set_says_which_key_and_why(tmp_path: Path, keys: str, says: str) -> None:
    with pytest.raises(TopologyError, match=r"edge\.jwt\.keys: .*keys\.json") as refused:
        load(write(tmp_path, f"{{jwt: {JWT}}}", keys))
    assert says in str(refused.value)


def test_a_topology_is_whole_wherever_it_is_read(tmp_path: Path) -> None:
    """A revision of it is kept far from the file of keys, and is another one with other keys."""
    found = load(write(tmp_path, f"{{jwt: {JWT}}}"))
    text = whole(found)
    (tmp_path / "keys.json").unlink()
    far = tmp_path / "far"
    far.mkdir()
    (far / "mesh.yaml").write_text(text)
    assert load(far / "mesh.yaml").access == found.access
    other = load(write(tmp_path, f"{{jwt: {JWT}}}"))
    assert whole(other) != text
    plain = load(write(tmp_path, "{}"))
    assert whole(plain) == plain.path.read_text()


def test_keys_in_mesh_yaml_itself_are_as_strict(tmp_path: Path) -> None:
    (key,) = json.loads(Issuer().key_set())["keys"]
    inline = (
        f"{{jwt: {{issuer: {ISSUER}, audience: {AUDIENCE}, keys: {json.dumps({'keys': [key]})}}}}}"
    )
    access = load(write(tmp_path, inline)).access
    assert access.jwt is not None
    assert json.loads(access.jwt.keys)["keys"][0]["x"] == key["x"]
    with pytest.raises(TopologyError, match=r"edge\.jwt\.keys.* private"):
        load(write(tmp_path, inline.replace('"kty"', '"d": "a", "kty"')))
