"""One sidecar's life: key, certificate, configuration, process, rotation, drain."""

from mesh.agent.errors import (
    AgentError,
    ConfigurationRefused,
    EnrolmentRefused,
    PortTaken,
    RenewalFailed,
    SidecarDied,
    SidecarNotReady,
)
from mesh.agent.sidecar import Sidecar, State, Status

__all__ = [
    "AgentError",
    "ConfigurationRefused",
    "EnrolmentRefused",
    "PortTaken",
    "RenewalFailed",
    "Sidecar",
    "SidecarDied",
    "SidecarNotReady",
    "State",
    "Status",
]
