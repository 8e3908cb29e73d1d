"""Reads versions of a contract: a folder of proto files, an image, or either at a git ref."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import DecodeError

from mesh.compat.errors import GateError, NoVersion, ToolMissing
from mesh.compat.pair import Side
from mesh.contracts.compiling import compile_protos
from mesh.contracts.rules import supported
from mesh.contracts.rules.rule import Subject

LARGEST = 32 * 1024 * 1024
"""Bytes of an image. A contract of a thousand services takes a tenth of it."""


def read(source: Path, name: str = "") -> Side:
    """A folder or an image. Raises `GateError`, `NoVersion` if there is none."""
    if source.is_dir():
        image = _compiled(source, name or str(source))
    elif source.exists():
        image = _parsed(_bytes(source), name or str(source))
    else:
        raise NoVersion(f"{source} does not exist: name a folder of proto files or an image")
    return sound(name or str(source), image)


def read_ref(ref: str, source: Path) -> Side:
    """A folder, an image, or `source` as it was at a git ref (`REF:PATH` for another path).

    Raises `GateError`, `NoVersion` if there is none.
    """
    here = Path(ref)
    commit, _, path = ref.partition(":")
    try:
        found = _commit(commit, source) if commit else None
    except ToolMissing:
        if not here.exists():
            raise
        found = None
    if here.exists():
        if found and not ref.startswith((".", "/")):
            raise GateError(
                f"{ref} is a path and a git ref: write ./{ref} or refs/heads/{ref} or refs/tags/..."
            )
        return read(here)
    if found is None:
        raise NoVersion(
            f"{ref} is no folder, no image and no git ref here: if it is a branch or a tag, fetch "
            "it (in CI with the whole history)"
        )
    with tempfile.TemporaryDirectory(prefix="isthmus-") as scratch:
        base = Path(scratch)
        if not path:
            top = Path(_git(source, "rev-parse", "--show-toplevel").decode().strip())
            path = str(source.resolve().relative_to(top.resolve()))
        _unpack(source, found, path, base)
        return read(base / path, ref)


def _commit(ref: str, near: Path) -> str | None:
    if ref.startswith("-"):
        return None
    try:
        return _git(near, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").decode().strip()
    except ToolMissing:
        raise
    except GateError:
        return None


def _unpack(near: Path, commit: str, path: str, into: Path) -> None:
    top = Path(_git(near, "rev-parse", "--show-toplevel").decode().strip())
    try:
        archive = _git(top, "archive", "--format=tar", commit, "--", path)
    except GateError as error:
        raise NoVersion(f"{path} is not in {commit[:12]}: write REF:PATH ({error})") from None
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(into, filter="data")


def _git(near: Path, *arguments: str) -> bytes:
    folder = near if near.is_dir() else near.parent
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise ToolMissing("git is missing: apt-get install git, or name folders alone") from None
    if done.returncode:
        raise GateError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def _compiled(folder: Path, name: str) -> descriptor_pb2.FileDescriptorSet:
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.proto"))
    if not files:
        raise GateError(f"{name} holds no .proto file: name the folder that imports begin in")
    with tempfile.TemporaryDirectory(prefix="isthmus-") as scratch:
        try:
            return compile_protos(folder, files, Path(scratch))
        except subprocess.CalledProcessError as error:
            said = str(error.stderr).replace(f"{folder}/", "").strip()
            if "No module named grpc_tools" in said:
                raise ToolMissing("protoc is missing: pip install 'isthmus[gate]'") from None
            raise GateError(f"{name} does not compile; mend this first:\n{said}") from None


def _bytes(image: Path) -> bytes:
    try:
        size = image.stat().st_size
        if size > LARGEST:
            raise GateError(
                f"{image} has {size / 2**20:.0f} MiB, and an image of contracts at most "
                f"{LARGEST / 2**20:.0f}: leave out what is no contract"
            )
        return image.read_bytes()
    except OSError as error:
        raise GateError(f"{image} cannot be read: {error.strerror}") from None


def _parsed(data: bytes, name: str) -> descriptor_pb2.FileDescriptorSet:
    try:
        image = descriptor_pb2.FileDescriptorSet.FromString(data)
    except DecodeError:
        image = descriptor_pb2.FileDescriptorSet()
    if not image.file or not all(file.name for file in image.file):
        raise GateError(
            f"{name} is no image: give what `buf build -o image.binpb` or `protoc "
            "--include_imports --include_source_info -o` wrote"
        )
    pool = descriptor_pool.DescriptorPool()
    try:
        for file in image.file:
            pool.Add(file)
        for file in image.file:
            pool.FindFileByName(file.name)
    except (TypeError, KeyError) as error:
        raise GateError(
            f"{name} is not whole: {error}\n  build it anew, with its imports (--include_imports)"
        ) from None
    return image


def sound(name: str, image: descriptor_pb2.FileDescriptorSet) -> Side:
    """An image as a version. Raises `GateError` if it has options of a newer Isthmus."""
    side = Side(name, image)
    subject = Subject(side.schema, None, frozenset())
    unknown = next(rule for rule in supported.RULES if rule.id == "OPTION_UNKNOWN")
    problems = sorted(f"{each.location}: {each.message}" for each in unknown.check(subject))
    if problems:
        said = "\n".join(f"  {each}" for each in problems)
        raise GateError(f"{name} has options of a newer Isthmus; check it with that one:\n{said}")
    return side
