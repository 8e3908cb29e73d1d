"""The benchmarks' own contract, compiled when it is first used."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from isthmus.options.v1 import options_pb2  # noqa: F401 # things.proto imports it: the pool needs it

from mesh.contracts import Contract, read
from mesh.contracts.compiling import compile_protos

HERE = Path(__file__).parent
IMAGE = HERE.parents[2] / "build" / "bench" / "things.binpb"
GROUP = "things"
WORKLOAD = "bench"
CLIENT = "client"
SERVICE = "bench.v1.ThingService"
FIELDS = tuple(f"f{number}" for number in range(10))
_CALLERS = ("channels", "devices", "overview")
"""Whom feed.proto names."""

_SOURCES = (
    "things.proto",
    "isthmus/mesh/v1/status.proto",
    "isthmus/replication/v1/feed.proto",
    "isthmus/replication/v1/link.proto",
)


def compile_contract() -> None:
    """Compiles things.proto to `IMAGE`, which the regions' processes read."""
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        image = compile_protos(HERE, _SOURCES, Path(scratch)).SerializeToString()
    fresh = IMAGE.with_suffix(".new")
    fresh.write_bytes(image)
    fresh.rename(IMAGE)


@cache
def _image() -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString(IMAGE.read_bytes())


@cache
def load() -> Contract:
    """The contract: one group, `GROUP`, of one workload, `WORKLOAD`."""
    return read(_image(), workloads=(CLIENT, *_CALLERS))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.Default()
    for file in _image().file:
        if file.name == "things.proto":
            pool.Add(file)
    return pool


def message_class(name: str) -> Any:
    """The class of a message, by its name in `bench.v1` or its full name."""
    full = name if "." in name else f"bench.v1.{name}"
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(full))
