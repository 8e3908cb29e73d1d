"""Generates `gen/python/isthmus` from `proto/`: messages, gRPC stubs, their types, and the image.

Needs no schema registry: `buf/validate/validate.proto` comes out of the protovalidate wheel, and
`google/api/annotations.proto` out of that of googleapis-common-protos. What they define stays on
fields and methods as unknown extensions, which is how their readers find it, so the generated code
needs no `buf` and no `google.api` package, in any language.

Run as ``python -m mesh.contracts.generate [--check]``; with ``--check`` nothing is written and a
difference is an error (exit code 1).
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
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

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
PACKAGE = ROOT / "gen" / "python" / "isthmus"
IMAGE_NAME = "contracts.binpb"
BUF_IMAGE = ROOT / "build" / "contracts.buf.binpb"

# buf's image extension on FileDescriptorProto: field 8042, a message whose field 1 is `is_import`.
_BUF_IS_IMPORT = bytes([0xD2, 0xF6, 0x03, 0x02, 0x08, 0x01])

_FOREIGN = ("buf/", "google/api/")

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


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Generate gen/python/isthmus from proto/.")
    parser.add_argument("--check", action="store_true", help="fail on a difference, write nothing")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "isthmus"
        try:
            full = _compile(Path(scratch))
            _write_buf_image(full)
            _generate(_without_foreign(full), fresh)
        except subprocess.CalledProcessError as error:
            print(error.stderr, file=sys.stderr, end="")
            return 1
        if arguments.check:
            different = sorted(_differences(fresh, PACKAGE))
            for path in different:
                print(f"gen/python/isthmus/{path} differs from proto/: run `make generate`")
            return 1 if different else 0
        shutil.rmtree(PACKAGE, ignore_errors=True)
        shutil.copytree(fresh, PACKAGE)
    return 0


def sources() -> list[str]:
    """The project's proto files, relative to `proto/`, in a fixed order."""
    return sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))


def compile_protos(
    root: Path, files: Iterable[str], scratch: Path
) -> descriptor_pb2.FileDescriptorSet:
    """Compiles proto files below `root` with their imports and source positions.

    `isthmus/options/v1`, `buf/validate` and `google/api/annotations.proto` can be imported whatever
    `root` is.
    Raises `subprocess.CalledProcessError` with protoc's message in `stderr`.
    """
    foreign = scratch / "foreign.binpb"
    foreign.write_bytes(_foreign_files().SerializeToString())
    image = scratch / "image.binpb"
    includes = [f"-I{root}"] if root == PROTO else [f"-I{root}", f"-I{PROTO}"]
    _protoc(
        f"--descriptor_set_in={foreign}",
        *includes,
        "--include_imports",
        "--include_source_info",
        f"-o{image}",
        *files,
    )
    return descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())


def _compile(scratch: Path) -> descriptor_pb2.FileDescriptorSet:
    return compile_protos(PROTO, sources(), scratch)


def _foreign_files() -> descriptor_pb2.FileDescriptorSet:
    result = descriptor_pb2.FileDescriptorSet()
    for module in _WELL_KNOWN:
        module.DESCRIPTOR.CopyToProto(result.file.add())
    result.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    return result


def _without_foreign(
    full: descriptor_pb2.FileDescriptorSet,
) -> descriptor_pb2.FileDescriptorSet:
    """The set without foreign files: their options remain as unknown extensions."""
    stripped = descriptor_pb2.FileDescriptorSet()
    for file in full.file:
        if file.name.startswith(_FOREIGN):
            continue
        kept = stripped.file.add()
        kept.CopyFrom(file)
        names = [name for name in kept.dependency if not name.startswith(_FOREIGN)]
        del kept.dependency[:]
        kept.dependency.extend(names)
    return stripped


def _write_buf_image(full: descriptor_pb2.FileDescriptorSet) -> None:
    own = set(sources())
    image = bytearray()
    for file in full.file:
        encoded = file.SerializeToString(deterministic=True)
        if file.name not in own:
            encoded += _BUF_IS_IMPORT
        image += b"\x0a" + _varint(len(encoded)) + encoded
    BUF_IMAGE.parent.mkdir(parents=True, exist_ok=True)
    BUF_IMAGE.write_bytes(bytes(image))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _generate(image: descriptor_pb2.FileDescriptorSet, package: Path) -> None:
    package.mkdir(parents=True)
    stored = package / IMAGE_NAME
    stored.write_bytes(image.SerializeToString(deterministic=True))
    out = package.parent
    _protoc(
        f"--descriptor_set_in={stored}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out={out}",
        f"--mypy_grpc_out={out}",
        *sources(),
    )
    for folder in [package, *sorted(path for path in package.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").write_text("")
    (package / "py.typed").write_text("")


def _protoc(*arguments: str) -> None:
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


def _differences(fresh: Path, stored: Path) -> set[str]:
    names = {
        str(path.relative_to(base))
        for base in (fresh, stored)
        for path in base.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return {
        name
        for name in names
        if not (fresh / name).is_file()
        or not (stored / name).is_file()
        or not filecmp.cmp(fresh / name, stored / name, shallow=False)
    }


if __name__ == "__main__":
    sys.exit(main())
