"""How this instance stands, for `isthmus status`."""

from __future__ import annotations

from importlib.metadata import version

import grpc
from cryptography import x509
from cryptography.x509 import SubjectAlternativeName, UniformResourceIdentifier
from google.protobuf.timestamp_pb2 import Timestamp
from isthmus.mesh.v1 import status_pb2, status_pb2_grpc

from mesh.contracts.model import Contract
from mesh.identity import expiry
from mesh.place import Place
from mesh.replication import Group


class StatusService(status_pb2_grpc.StatusServiceServicer):
    """Serves `isthmus.mesh.v1.StatusService`."""

    def __init__(self, place: Place, contract: Contract, group: Group | None) -> None:
        self._place = place
        self._group = group
        self._started = Timestamp()
        self._started.GetCurrentTime()
        own = [s for s in contract.services.values() if s.workload == place.workload]
        self._owner = own[0].owner if own else ""
        self._runbook = own[0].runbook if own else ""

    async def GetStatus(
        self,
        request: status_pb2.GetStatusRequest,
        context: grpc.aio.ServicerContext[
            status_pb2.GetStatusRequest, status_pb2.GetStatusResponse
        ],
    ) -> status_pb2.GetStatusResponse:
        """The instance's own view."""
        return status_pb2.GetStatusResponse(
            workload=self._place.workload,
            region=self._place.region,
            version=version("isthmus"),
            started=self._started,
            owner=self._owner,
            runbook=self._runbook,
            certificate=certificate_status(self._place),
            group=self._group.status() if self._group else None,
        )


def certificate_status(place: Place) -> status_pb2.CertificateStatus | None:
    """The instance's leaf and what it descends from; None before it has one."""
    try:
        leaf = x509.load_pem_x509_certificate((place.identity / "tls.crt").read_bytes())
    except (OSError, ValueError):
        return None
    names = leaf.extensions.get_extension_for_class(SubjectAlternativeName).value
    uris = names.get_values_for_type(UniformResourceIdentifier)
    status = status_pb2.CertificateStatus(spiffe_id=uris[0] if uris else "")
    status.not_before.FromDatetime(leaf.not_valid_before_utc)
    status.not_after.FromDatetime(leaf.not_valid_after_utc)
    for each in expiry.lifetimes(place.identity)[1:]:
        issuer = status.issuers.add(level=each.level.value)
        issuer.not_before.FromDatetime(each.not_before)
        issuer.not_after.FromDatetime(each.not_after)
    return status
