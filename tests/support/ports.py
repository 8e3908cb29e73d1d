"""Free ports for tests that run in parallel, also beside a running mesh."""

from __future__ import annotations

from mesh.local.ports import claim_blocks

_claims = []


def free_blocks(count: int) -> list[int]:
    """Base ports of `count` free blocks; they stay this process's own until it ends."""
    claim = claim_blocks(count)
    _claims.append(claim)
    return list(claim.bases)
