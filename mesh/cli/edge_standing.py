"""How the edges stand: whether they answer, and the certificate that they show who connects."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from isthmus.mesh.v1.status_pb2 import CertificateStatus, GetStatusResponse

from mesh.cli.standing import NO_EDGE, Standing
from mesh.place import EDGE
from mesh.topology import Address, Topology

_WITHIN = 3.0


async def edges(topology: Topology, identity: Path, regions: Iterable[str]) -> list[Standing]:
    """The standing of each region's edge, by its certificate alone: it has no process to ask."""
    return list(await asyncio.gather(*(_edge(topology, identity, each) for each in regions)))


async def _edge(topology: Topology, identity: Path, region: str) -> Standing:
    try:
        async with asyncio.timeout(_WITHIN):
            shown = await _shown(topology.edge(region), identity)
    except ssl.SSLCertVerificationError as error:
        said = f"it shows a certificate that is not valid: {error.verify_message}"
        return Standing(region, EDGE, None, said)
    except (OSError, TimeoutError, ValueError):
        return Standing(region, EDGE, None, NO_EDGE, edge=False)
    status = CertificateStatus()
    status.not_before.FromDatetime(shown.not_valid_before_utc)
    status.not_after.FromDatetime(shown.not_valid_after_utc)
    return Standing(
        region, EDGE, GetStatusResponse(workload=EDGE, region=region, certificate=status)
    )


async def _shown(address: Address, identity: Path) -> x509.Certificate:
    context = ssl.create_default_context(cafile=identity / "trust.crt")
    # Its name is in a URI, which this module does not compare; who else is below the root does not
    # matter here, where nothing is sent.
    context.check_hostname = False
    context.load_cert_chain(identity / "tls.crt", identity / "tls.key")
    _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    try:
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(found)
    finally:
        writer.transport.abort()
