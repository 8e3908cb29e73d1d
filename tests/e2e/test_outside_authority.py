"""A mesh without an authority: openssl issues all identities, and replaces its root."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mesh.cli.exits import Exit
from mesh.cli.main import run
from mesh.identity import folder, spiffe
from mesh.local.layout import Layout
from mesh.place import EDGE
from mesh.topology import load
from tests.e2e.test_up_lifecycle import isthmus
from tests.support.ports import free_blocks

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

DOMAIN = "outside.test"
WORKLOADS = ("devices", "channels", "overview", "control")


@dataclass
class OpenSsl:
    """A root and what it signs, in files, made by the openssl command."""

    path: Path
    name: str

    def __post_init__(self) -> None:
        self._make(
            self.name,
            "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
            "subjectKeyIdentifier=hash\n",
            ("-key", self._file(self.name, "key")),
        )

    @property
    def root(self) -> Path:
        return self._file(self.name, "crt")

    def issue(self, uri: str) -> tuple[Path, Path]:
        """A leaf's chain and its key."""
        who = spiffe.parse(uri)
        names = f"URI:{uri},DNS:{who.dns_name},DNS:localhost,IP:127.0.0.1"
        at = f"{self.name}-{who.path.replace('/', '-')}"
        self._make(
            at,
            f"basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
            f"extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName={names}\n"
            f"subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n",
            ("-CA", self.root, "-CAkey", self._file(self.name, "key")),
        )
        return self._file(at, "crt"), self._file(at, "key")

    def _make(self, name: str, extensions: str, signer: tuple[object, ...]) -> None:
        key, request = self._file(name, "key"), self._file(name, "csr")
        wanted = self._file(name, "ext")
        wanted.write_text(extensions)
        _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
        _openssl("req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", request)
        if signer[0] == "-key":
            signer = ("-signkey", key)
        _openssl(
            *("x509", "-req", "-in", request, *signer, "-days", "1", "-extfile", wanted),
            *("-out", self._file(name, "crt")),
        )

    def _file(self, name: str, kind: str) -> Path:
        return self.path / f"{name}.{kind}"


def _openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@dataclass
class Mesh:
    folder: Path

    def install(self, authority: OpenSsl, uri: str, *trusted: OpenSsl) -> None:
        certificate, key = authority.issue(uri)
        roots = self.folder / "roots.pem"
        roots.write_bytes(b"".join(each.root.read_bytes() for each in trusted))
        files = ("--certificate", certificate, "--key", key, "--roots", roots)
        where = ("--mesh", self.folder / "mesh.yaml")
        assert run(["identity", "install", *map(str, (*files, *where))]) == Exit.OK

    @property
    def everybody(self) -> list[str]:
        workloads = (f"region/eu/workload/{each}" for each in (*WORKLOADS, EDGE))
        return [f"spiffe://{DOMAIN}/{each}" for each in (*workloads, "operator/ann")]


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    (base,) = free_blocks(1)
    (tmp_path / "mesh.yaml").write_text(
        f"""
version: 1
trust_domain: {DOMAIN}
regions: [{{name: eu, host: 127.0.0.1, base_port: {base}}}]
workloads: [{", ".join(WORKLOADS)}]
media: {{root: media, origin: "127.0.0.1:{base + 99}"}}
"""
    )
    yield Mesh(tmp_path)
    isthmus(tmp_path, "down")


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_openssl_issues_for_a_mesh_and_replaces_its_root(mesh: Mesh, tmp_path: Path) -> None:
    first, second = OpenSsl(tmp_path, "first"), OpenSsl(tmp_path, "second")
    none = isthmus(tmp_path, "up", "--detach")
    assert none.returncode == Exit.FAILED
    assert "this mesh has no authority: have its issuer put one there" in none.stderr
    for uri in mesh.everybody:
        mesh.install(first, uri, first)
    done = isthmus(tmp_path, "up", "--detach")
    assert done.returncode == Exit.OK, done.stderr
    layout = Layout.of(load(tmp_path / "mesh.yaml"))
    assert not layout.root.joinpath("root.pem").exists()

    # Step by step, as an authority of one's own does it. The last step, to trust the second alone,
    # is to wait for two minutes: for so long what edges have signed counts.
    for signer, *trusted in ((first, first, second), (second, first, second)):
        for uri in mesh.everybody:
            mesh.install(signer, uri, *trusted)
        listed = isthmus(tmp_path, "channels", "list", "--json")
        assert listed.returncode == Exit.OK, listed.stderr
        eventually(lambda at=signer: _shown(layout) == _issued(at), "the edge shows the new leaf")
    status = json.loads(isthmus(tmp_path, "status", "--json").stdout)
    unhealthy = [each for each in status["workloads"] if not each["healthy"]]
    assert not unhealthy, unhealthy

    token = isthmus(tmp_path, "devices", "token", "cam-1")
    assert token.returncode == Exit.CONFLICT
    assert "have the issuer of this mesh make the device's identity" in token.stderr


def _shown(layout: Layout) -> str:
    """The serial number that the edge's listener shows."""
    address = layout.topology.edge("eu")
    held = layout.operator
    done = subprocess.run(
        [
            *("openssl", "s_client", "-connect", str(address)),
            *("-cert", held / "tls.crt", "-key", held / "tls.key"),
        ],
        input=b"",
        capture_output=True,
        check=False,
    )
    return _serial(done.stdout)


def _issued(authority: OpenSsl) -> str:
    return _serial((authority.path / f"{authority.name}-region-eu-workload-edge.crt").read_bytes())


def _serial(pem: bytes) -> str:
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-serial"], input=pem, capture_output=True, check=True
    )
    return done.stdout.decode()


def test_what_a_mesh_cannot_run_with_is_refused(mesh: Mesh, tmp_path: Path) -> None:
    first, second = OpenSsl(tmp_path, "first"), OpenSsl(tmp_path, "second")
    uri = mesh.everybody[0]
    certificate, key = first.issue(uri)
    other_key = second.issue(uri)[1]
    elsewhere = first.issue("spiffe://elsewhere.test/operator/ann")
    unknown = first.issue(f"spiffe://{DOMAIN}/region/eu/workload/strange")
    missing = tmp_path / "missing.pem"
    for files, code, why in (
        ((certificate, other_key, first.root), Exit.USAGE, "the key is not the certificate's"),
        ((certificate, key, second.root), Exit.USAGE, "the roots do not vouch for it"),
        ((first.root, key, first.root), Exit.USAGE, "the key is not the certificate's"),
        ((missing, key, first.root), Exit.USAGE, f"cannot read {missing}"),
        ((key, key, first.root), Exit.USAGE, "it cannot be read"),
        ((*elsewhere, first.root), Exit.USAGE, "is of another trust domain"),
        ((*unknown, first.root), Exit.NOT_FOUND, "has no eu/strange"),
    ):
        words = zip(("--certificate", "--key", "--roots"), map(str, files), strict=True)
        done = isthmus(tmp_path, "identity", "install", *(each for pair in words for each in pair))
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert why in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / ".isthmus" / "eu").exists()
    assert folder.generation(tmp_path / ".isthmus" / "operator") == ""
