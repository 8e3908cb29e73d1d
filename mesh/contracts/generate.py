"""Generates `gen/python/isthmus` from `proto/`: messages, gRPC stubs, their types, and the image.

What `buf/validate` and `google/api` define stays on fields and methods as unknown extensions, which
is how their readers find it, so the generated code needs no `buf` and no `google.api` package, in
any language.

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
from pathlib import Path

from google.protobuf import descriptor_pb2

from mesh.contracts.compiling import BUF_IS_IMPORT, compile_protos, protoc

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
PACKAGE = ROOT / "gen" / "python" / "isthmus"
IMAGE_NAME = "contracts.binpb"
BUF_IMAGE = ROOT / "build" / "contracts.buf.binpb"


_FOREIGN = ("buf/", "google/api/")


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


def _compile(scratch: Path) -> descriptor_pb2.FileDescriptorSet:
    return compile_protos(PROTO, sources(), scratch)


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
            encoded += BUF_IS_IMPORT
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
    protoc(
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
