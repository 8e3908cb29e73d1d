"""Free ports for tests that run in parallel, also beside a running mesh."""

from __future__ import annotations

from mesh.local.ports import Claim, claim_blocks

_claims: list[Claim] = []


def free_blocks(count: int) -> list[int]:
    """Base ports of `count` free blocks; they stay the running test's own until it ends."""
    claim = claim_blocks(count)
    _claims.append(claim)
    return list(claim.bases)


def release() -> None:
    """Gives back what the running test claimed."""
    while _claims:
        _claims.pop().release()
