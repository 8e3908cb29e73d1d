"""Compiles proto files to descriptor sets, without a schema registry.

`buf/validate/validate.proto` comes out of the protovalidate wheel, `google/api/annotations.proto`
out of that of googleapis-common-protos, and Isthmus' own files out of its image.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from google.api import annotations_pb2, http_pb2
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from protovalidate._gen.buf.validate import validate_pb

from mesh.contracts.read import descriptors

_WELL_KNOWN = (
    any_pb2,
    descriptor_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
    http_pb2,
    annotations_pb2,
)
_OWN = "isthmus/"

BUF_IS_IMPORT = bytes([0xD2, 0xF6, 0x03, 0x02, 0x08, 0x01])
"""To be added to an encoded file that buf shall not judge: its image extension on
FileDescriptorProto, field 8042, a message whose field 1 is `is_import`."""


def compile_protos(
    root: Path, files: Iterable[str], scratch: Path
) -> descriptor_pb2.FileDescriptorSet:
    """Compiles proto files below `root` with their imports and source positions.

    `isthmus/options/v1`, `buf/validate` and `google/api/annotations.proto` can be imported whatever
    `root` is; what `root` itself has comes first.
    Raises `subprocess.CalledProcessError` with protoc's message in `stderr`.
    """
    foreign = scratch / "foreign.binpb"
    foreign.write_bytes(_foreign_files(root).SerializeToString())
    image = scratch / "image.binpb"
    protoc(
        f"--descriptor_set_in={foreign}",
        f"-I{root}",
        "--include_imports",
        "--include_source_info",
        f"-o{image}",
        *files,
    )
    return descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())


def protoc(*arguments: str) -> None:
    """Runs protoc. Raises `subprocess.CalledProcessError` with its message in `stderr`."""
    scripts = Path(sys.executable).parent
    plugins = [
        f"--plugin=protoc-gen-{name}={scripts / f'protoc-gen-{name}'}"
        for name in ("mypy", "mypy_grpc")
    ]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *plugins, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )


def _foreign_files(root: Path) -> descriptor_pb2.FileDescriptorSet:
    found = descriptor_pb2.FileDescriptorSet()
    for module in _WELL_KNOWN:
        module.DESCRIPTOR.CopyToProto(found.file.add())
    found.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    # A tree with options of its own is a whole one, of whatever version: it is not mixed with ours.
    if not (root / _OWN / "options").is_dir():
        found.file.extend(file for file in descriptors().file if file.name.startswith(_OWN))
    result = descriptor_pb2.FileDescriptorSet()
    result.file.extend(file for file in found.file if not (root / file.name).is_file())
    return result
