"""Errors of the compiler of sidecar configurations."""

from __future__ import annotations


class EnvoyConfigError(Exception):
    """No configuration that Envoy accepts can be made; the message has Envoy's reason."""
