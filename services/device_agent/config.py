"""What a device agent is told: by flags, or by the environment."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class ConfigError(Exception):
    """A setting is missing or wrong; the message says which and what to write."""


@dataclass(frozen=True)
class Edge:
    """A region's edge: `address` is host:port."""

    region: str
    address: str


@dataclass(frozen=True)
class Config:
    """One device.

    `edges` come in the order in which to try them, the own region's first. `output` is the folder
    that the media origin serves. The join token and the address to use it at are needed only until
    the identity folder (`state/identity`) holds a certificate.
    """

    device_id: str
    region: str
    capacity: int
    model: str
    state: Path
    media_root: Path
    output: Path
    edges: tuple[Edge, ...]
    enrolment: str | None
    join_token_file: Path | None
    ffmpeg: str | None

    @property
    def identity(self) -> Path:
        """The identity folder."""
        return self.state / "identity"


_SETTINGS = {
    "device-id": ("ISTHMUS_DEVICE_ID", None, "the id that the certificate names"),
    "region": ("ISTHMUS_REGION", None, "the region that the device stands in"),
    "capacity": ("ISTHMUS_DEVICE_CAPACITY", "1", "channels that it encodes at once, 1 to 64"),
    "model": ("ISTHMUS_DEVICE_MODEL", "software encoder", "what operators see as its model"),
    "state": ("ISTHMUS_STATE_DIR", None, "folder for its identity and its memory"),
    "media-root": ("ISTHMUS_MEDIA_ROOT", None, "folder below which source files lie"),
    "output": ("ISTHMUS_OUTPUT_DIR", None, "folder that the media origin serves"),
    "edges": ("ISTHMUS_EDGES", None, "region=host:port,... in the order to try them"),
    "enrolment": ("ISTHMUS_ENROLMENT", "", "host:port where the join token is used"),
    "join-token-file": ("ISTHMUS_JOIN_TOKEN_FILE", "", "file that holds the join token"),
    "ffmpeg": ("ISTHMUS_FFMPEG", "", "the encoder binary, if not the one that comes along"),
}


def read(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Config:
    """Reads flags, and the environment for what they leave out. Raises `ConfigError`."""
    variables = os.environ if environment is None else environment
    parser = argparse.ArgumentParser(
        prog="python -m services.device_agent.main",
        description="An encoder: obeys its gateway and runs ffmpeg.",
    )
    for name, (variable, default, text) in _SETTINGS.items():
        parser.add_argument(
            f"--{name}", default=variables.get(variable, default), help=f"{text} [{variable}]"
        )
    given = vars(parser.parse_args(arguments))
    for name, (variable, _, _) in _SETTINGS.items():
        if given[name.replace("-", "_")] is None:
            raise ConfigError(f"--{name} is missing: give it, or set {variable}")
    capacity = given["capacity"]
    if not str(capacity).isdigit() or not 1 <= int(capacity) <= 64:
        raise ConfigError(f"--capacity is {capacity!r}: write a number from 1 to 64")
    return Config(
        device_id=given["device_id"],
        region=given["region"],
        capacity=int(capacity),
        model=given["model"],
        state=Path(given["state"]).absolute(),
        media_root=Path(given["media_root"]).absolute(),
        output=Path(given["output"]).absolute(),
        edges=_edges(given["edges"]),
        enrolment=given["enrolment"] or None,
        join_token_file=Path(given["join_token_file"]) if given["join_token_file"] else None,
        ffmpeg=given["ffmpeg"] or None,
    )


def _edges(text: str) -> tuple[Edge, ...]:
    edges = []
    for part in filter(None, text.split(",")):
        region, equals, address = part.strip().partition("=")
        host, _, port = address.rpartition(":")
        if not (region and equals and host and port.isdigit()):
            raise ConfigError(f"--edges has {part!r}: write region=host:port,...")
        edges.append(Edge(region, address))
    if not edges:
        raise ConfigError("--edges names no edge: write region=host:port,...")
    return tuple(edges)
