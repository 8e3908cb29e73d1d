"""Gets the peers' packages from Debian, pinned, into build/peers; installs nothing.

Run as ``python -m tests.bench.replication.peers.debs`` it pins what Debian has today.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

LOCK = Path(__file__).with_name("debs.lock")
FOLDER = Path(__file__).resolve().parents[4] / "build" / "peers"
_DONE = FOLDER / "debs.lock"
DIES_WITH_US = ("setpriv", "--pdeathsig", "INT")
"""Before a server's command: it does not outlive a benchmark that is killed."""

_RENEW = "python -m tests.bench.replication.peers.debs"


may_fetch = True
"""Whether `ensure` may use the network."""


class NoPeers(Exception):
    """The packages cannot be had; the message says why and what to do."""


class Pinned(NamedTuple):
    """One package as the lock names it."""

    name: str
    version: str
    architecture: str
    sha256: str


def pinned() -> list[Pinned]:
    """The lock's packages."""
    lines = (line.split() for line in LOCK.read_text().splitlines() if not line.startswith("#"))
    return [Pinned(*line) for line in lines]


def ensure() -> Path:
    """The folder below which the packages' files lie, as below a root. Raises `NoPeers`."""
    if _DONE.exists() and _DONE.read_text() == LOCK.read_text():
        return FOLDER
    if not may_fetch:
        raise NoPeers("they were not fetched yet: `make bench-replication` does")
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NoPeers("the peers come from Debian's packages: apt-get and dpkg-deb are missing")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    packages = pinned()
    with tempfile.TemporaryDirectory() as scratch:
        wanted = [f"{each.name}:{each.architecture}={each.version}" for each in packages]
        files = list(_download(wanted, Path(scratch)))
        found = {hashlib.sha256(file.read_bytes()).hexdigest(): file for file in files}
        for package in packages:
            if package.sha256 not in found:
                raise NoPeers(f"{package.name} is not the file that {LOCK} names: `{_RENEW}`")
            _run(["dpkg-deb", "-x", str(found[package.sha256]), str(FOLDER)])
    shutil.copy(LOCK, _DONE)
    return FOLDER


def environment() -> dict[str, str]:
    """The variables with which the peers' programs find their libraries."""
    return {**os.environ, "LD_LIBRARY_PATH": str(FOLDER / "usr" / "lib" / "x86_64-linux-gnu")}


def _download(wanted: Sequence[str], folder: Path) -> Iterator[Path]:
    try:
        _run(["apt-get", "download", *wanted], cwd=folder)
    except NoPeers:
        # The system's lists may be old or missing: these need no root.
        for part in ("lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True)
        own = [
            f"-oDir::State::lists={folder / 'lists'}",
            f"-oDir::Cache={folder / 'cache'}",
            "-oAPT::Sandbox::User=",
        ]
        _run(["apt-get", *own, "update"])
        _run(["apt-get", *own, "download", *wanted], cwd=folder)
    yield from folder.glob("*.deb")


def _run(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        raise NoPeers(
            f"`{' '.join(command[:2])}` failed: {' '.join(errors) or done.stderr.strip()}; "
            f"with a network and Debian 12's archives, `{_RENEW}` pins today's versions"
        )


def _renew() -> None:
    header = [line for line in LOCK.read_text().splitlines() if line.startswith("#")]
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        names = [each.name for each in pinned()]
        for file in sorted(_download(names, Path(scratch))):
            shown = "${Package} ${Version} ${Architecture}"
            command = ["dpkg-deb", "--show", f"--showformat={shown}", str(file)]
            about = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            lines.append(f"{about} {hashlib.sha256(file.read_bytes()).hexdigest()}")
    LOCK.write_text("\n".join([*header, *lines]) + "\n")


if __name__ == "__main__":
    _renew()
