"""The contract of the workload `things`, compiled from its proto."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from mesh.contracts import read
from mesh.contracts.compiling import compile_protos
from mesh.contracts.model import Contract
from mesh.contracts.read import descriptors

PACKAGE = "isthmus.tests.things.v1"
SERVICE = f"{PACKAGE}.ThingService"
_FILE = "things.proto"


@cache
def contract() -> Contract:
    """The project's own contract with that of `things`."""
    return read(_image(), regions=2)


def message(name: str) -> type[Message]:
    """The class of a message of `things.proto`."""
    pool = descriptor_pool.Default()  # where a group looks for its entities
    try:
        found = pool.FindMessageTypeByName(f"{PACKAGE}.{name}")
    except KeyError:
        pool.Add(next(file for file in _image().file if file.name == _FILE))
        found = pool.FindMessageTypeByName(f"{PACKAGE}.{name}")
    return message_factory.GetMessageClass(found)


@cache
def _image() -> descriptor_pb2.FileDescriptorSet:
    image = descriptor_pb2.FileDescriptorSet()
    image.CopyFrom(descriptors())
    with tempfile.TemporaryDirectory() as scratch:
        compiled = compile_protos(Path(__file__).parent, [_FILE], Path(scratch))
    image.file.extend(file for file in compiled.file if file.name == _FILE)
    return image
