"""Errors of the agent.

AgentError
├── EnrolmentRefused        no authority gave a certificate for the token, or there is no token
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
    """No authority gave a certificate for the token, or there is no token."""


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
