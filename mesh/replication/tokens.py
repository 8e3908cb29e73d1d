"""Session tokens, for those who carry them; see `mesh.replication.core.tokens`."""

from mesh.replication.core.tokens import Token, decode, encode, merged

__all__ = ["Token", "decode", "encode", "merged"]
