"""SPIFFE names: building and parsing them.

    spiffe://<trust domain>/region/<region>/workload/<name>
    spiffe://<trust domain>/device/<id>
    spiffe://<trust domain>/operator/<name>

The URI form is that of the SPIFFE ID standard; these are the only paths the mesh knows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mesh.identity.errors import SpiffeError

_TRUST_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,253}[a-z0-9])?")
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class WorkloadId:
    """A workload (or the edge) of one region."""

    trust_domain: str
    region: str
    name: str

    def __post_init__(self) -> None:
        _check(self.trust_domain, self.region, self.name)

    @property
    def path(self) -> str:
        """The URI's path without its first slash."""
        return f"region/{self.region}/workload/{self.name}"

    @property
    def uri(self) -> str:
        """The SPIFFE ID."""
        return f"spiffe://{self.trust_domain}/{self.path}"

    @property
    def dns_name(self) -> str:
        """What tools that check DNS names alone (grpcurl, curl) know it by."""
        return f"{self.name}.{self.region}.{self.trust_domain}"


@dataclass(frozen=True)
class DeviceId:
    """A piece of media equipment."""

    trust_domain: str
    device_id: str

    def __post_init__(self) -> None:
        _check(self.trust_domain, self.device_id)

    @property
    def path(self) -> str:
        """The URI's path without its first slash."""
        return f"device/{self.device_id}"

    @property
    def uri(self) -> str:
        """The SPIFFE ID."""
        return f"spiffe://{self.trust_domain}/{self.path}"

    @property
    def dns_name(self) -> str:
        """A DNS name for it."""
        return f"{self.device_id}.device.{self.trust_domain}"


@dataclass(frozen=True)
class OperatorId:
    """A person or program that operates the system."""

    trust_domain: str
    name: str

    def __post_init__(self) -> None:
        _check(self.trust_domain, self.name)

    @property
    def path(self) -> str:
        """The URI's path without its first slash."""
        return f"operator/{self.name}"

    @property
    def uri(self) -> str:
        """The SPIFFE ID."""
        return f"spiffe://{self.trust_domain}/{self.path}"

    @property
    def dns_name(self) -> str:
        """A DNS name for it."""
        return f"{self.name}.operator.{self.trust_domain}"


Identity = WorkloadId | DeviceId | OperatorId


def parse(uri: str) -> Identity:
    """The identity that a SPIFFE ID names. Raises `SpiffeError` for anything else."""
    scheme, separator, rest = uri.partition("://")
    if scheme != "spiffe" or not separator:
        raise SpiffeError(f"{uri!r} is not a SPIFFE ID: it must begin with spiffe://")
    trust_domain, _, path = rest.partition("/")
    return from_path(trust_domain, path)


def from_path(trust_domain: str, path: str) -> Identity:
    """The identity at `path` (without its first slash). Raises `SpiffeError` if there is none."""
    match path.split("/"):
        case ["region", region, "workload", name]:
            return WorkloadId(trust_domain, region, name)
        case ["device", device_id]:
            return DeviceId(trust_domain, device_id)
        case ["operator", name]:
            return OperatorId(trust_domain, name)
    raise SpiffeError(
        f"{path!r} names nobody: write region/<region>/workload/<name>, device/<id> "
        "or operator/<name>"
    )


def _check(trust_domain: str, *names: str) -> None:
    if not _TRUST_DOMAIN.fullmatch(trust_domain):
        raise SpiffeError(f"{trust_domain!r} is not a trust domain: write one like isthmus.test")
    for name in names:
        if not _NAME.fullmatch(name):
            raise SpiffeError(
                f"{name!r} is not a name: use lower-case letters, digits and dashes, at most 63"
            )
