"""The project's contract with one method's options changed, as an image to deploy."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from isthmus.options.v1 import options_pb2

from mesh.contracts.read import image


def changed(path: str, change: Callable[[options_pb2.MethodContract], object]) -> bytes:
    """The image in which `change` was made to the options of `package.Service/Method`."""
    descriptors = FileDescriptorSet.FromString(image())
    service, _, name = path.partition("/")
    (found,) = [
        method
        for file in descriptors.file
        for each in file.service
        for method in each.method
        if f"{file.package}.{each.name}" == service and method.name == name
    ]
    change(found.options.Extensions[options_pb2.method])
    return descriptors.SerializeToString(deterministic=True)
