"""The client of `xds_call.js`, with the packages that its lock names, in build/grpc-js."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_BUILD = _HERE.parents[2] / "build" / "grpc-js"
_FILES = ("package.json", "package-lock.json", "xds_call.js")


def grpc_js() -> list[str]:
    """The command that runs it; the test is skipped where it cannot be had."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed: apt-get install nodejs npm")
    _BUILD.mkdir(parents=True, exist_ok=True)
    with (_BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in _FILES:
            given, here = (_HERE / name).read_bytes(), _BUILD / name
            if not here.exists() or here.read_bytes() != given:
                here.write_bytes(given)
                (_BUILD / "installed").unlink(missing_ok=True)
        if not (_BUILD / "installed").exists():
            _install()
    return ["node", str(_BUILD / "xds_call.js")]


def _install() -> None:
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=_BUILD,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"npm cannot fetch what xds_call.js needs: {done.stderr.strip()[-300:]}")
    (_BUILD / "installed").touch()
