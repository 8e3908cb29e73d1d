"""Contracts: from a Protobuf descriptor set to a typed, linted model.

`load()` is the project's own contract; `read(descriptor_set)` reads any other. Both raise
`ContractError`, whose `findings` say everything that is wrong, each with file, line and remedy.
"""

from mesh.contracts.findings import ContractError, Finding
from mesh.contracts.model import Contract
from mesh.contracts.read import load, read

__all__ = ["Contract", "ContractError", "Finding", "load", "read"]
