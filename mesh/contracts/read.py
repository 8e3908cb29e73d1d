"""Reads contracts: the project's own, or any descriptor set."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import cache
from importlib import resources

from google.protobuf import descriptor_pb2

from mesh.contracts.build import build
from mesh.contracts.findings import ContractError
from mesh.contracts.lint import lint
from mesh.contracts.model import Contract
from mesh.contracts.schema import Schema
from mesh.contracts.transcoding import transcoding


@cache
def load() -> Contract:
    """The project's own contract, from the image that was generated with the stubs.

    Raises `ContractError` if it is wrong.
    """
    return read(descriptors())


@cache
def descriptors() -> descriptor_pb2.FileDescriptorSet:
    """The project's own image: all of `proto/`, with source positions."""
    return descriptor_pb2.FileDescriptorSet.FromString(image())


def image() -> bytes:
    """The bytes of the project's own image."""
    return resources.files("isthmus").joinpath("contracts.binpb").read_bytes()


def read(
    descriptors: descriptor_pb2.FileDescriptorSet,
    *,
    regions: int | None = None,
    workloads: Collection[str] = (),
) -> Contract:
    """The contract of a descriptor set (with imports and source positions).

    `regions` is how many regions the contract shall run in, if that is known; `workloads` names
    workloads that serve nothing and may be callers all the same. Raises `ContractError` with all
    findings at once.
    """
    schema = Schema(descriptors)
    findings = lint(schema, regions=regions, workloads=workloads)
    if findings:
        raise ContractError(findings)
    contract = build(schema)
    return replace(contract, transcoding=transcoding(descriptors, contract))
