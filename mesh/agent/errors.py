"""Errors of the agent.

AgentError
├── EnrolmentRefused        the authority would not take the token, or is not the pinned one
├── RenewalFailed           no authority signed a fresh certificate
├── ConfigurationRefused    Envoy finds fault with the compiled configuration
├── PortTaken               another process listens where the sidecar must
├── SidecarNotReady         Envoy started and did not become ready in time
└── SidecarDied             Envoy ended while it should have run
"""

from __future__ import annotations


class AgentError(Exception):
    """A sidecar cannot do its work; the message says what to do."""


class EnrolmentRefused(AgentError):
    """The authority would not take the token, or is not the one that the token pins."""


class RenewalFailed(AgentError):
    """No authority signed a fresh certificate."""


class ConfigurationRefused(AgentError):
    """Envoy finds fault with the compiled configuration."""


class PortTaken(AgentError):
    """Another process listens where the sidecar must."""


class SidecarNotReady(AgentError):
    """Envoy started and did not become ready in time."""


class SidecarDied(AgentError):
    """Envoy ended while it should have run."""
