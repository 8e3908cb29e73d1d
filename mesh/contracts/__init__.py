"""Contracts: from a Protobuf descriptor set to a typed, linted model."""
