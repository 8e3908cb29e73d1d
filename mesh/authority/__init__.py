"""The region's certificate authority: a workload (`main`), and its preparation offline."""

from mesh.authority.prepare import (
    Prepared,
    device_token,
    issue_operator,
    prepare,
)

__all__ = ["Prepared", "device_token", "issue_operator", "prepare"]
