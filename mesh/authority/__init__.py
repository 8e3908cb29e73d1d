"""The region's certificate authority: a workload (`main`), and its preparation offline."""

from mesh.authority.keep import AuthorityDamaged
from mesh.authority.prepare import Prepared, device_token, issue_operator, prepare, renew_issuer

__all__ = [
    "AuthorityDamaged",
    "Prepared",
    "device_token",
    "issue_operator",
    "prepare",
    "renew_issuer",
]
