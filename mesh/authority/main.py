"""The authority's process: `python -m mesh.authority.main`, started by `isthmus up`."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime

from isthmus.mesh.v1 import authority_pb2_grpc as rpc

from mesh.authority import keep
from mesh.authority.issuing import Issuing
from mesh.authority.revocations import Revocations
from mesh.authority.service import AuthorityService, EnrolmentService, Signer
from mesh.identity import folder
from mesh.identity.enrolment import AUTHORITY
from mesh.identity.tokens import TokenStore
from mesh.runtime import Host, run


def _now() -> datetime:
    return datetime.fromtimestamp(time.time_ns() / 1e9, UTC)


async def build(host: Host) -> None:
    """Adds the authority's two services; ends the process if the region was not prepared."""
    path = host.place.data / keep.ISSUING
    try:
        issuer = keep.load(path)
    except keep.AuthorityDamaged as error:
        sys.exit(f"authority: {error}")
    if issuer is None:
        sys.exit(f"authority: {path} is missing: `isthmus up` makes it before it starts a region")
    tokens = TokenStore(
        host.place.data / keep.TOKENS,
        host.region,
        lambda: folder.read(host.place.identity).root_hash,
    )
    revoked = Revocations(host.topology)
    issuing = Issuing(path, issuer)
    signer = Signer(issuing.current, host.topology, host.region, _now, revoked.has)
    host.add(
        rpc.add_EnrolmentServiceServicer_to_server,
        EnrolmentService(signer, tokens, host.topology.trust_domain),
        "isthmus.mesh.v1.EnrolmentService",
    )
    host.add(
        rpc.add_AuthorityServiceServicer_to_server,
        AuthorityService(signer, tokens, host.topology, host.region),
        "isthmus.mesh.v1.AuthorityService",
    )


if __name__ == "__main__":
    run(AUTHORITY, build)
