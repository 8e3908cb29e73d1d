"""What Envoy says of a service that it cannot reach, in an operator's words."""

from __future__ import annotations

import re

_RESET = re.compile(
    r"upstream connect error or disconnect/reset before headers\. "
    r"(?:retried and the latest )?reset reason: (?P<reset>[^,;]*)"
    r"(?:, transport failure reason: (?P<transport>[^;]*))?"
)


def in_words(details: str) -> str:
    """A status's details with Envoy's own phrases replaced; other text stays."""
    text = _RESET.sub(_unreachable, details)
    return text.replace(
        "no healthy upstream", "the edge answers, but no instance of the service is healthy"
    )


def _unreachable(match: re.Match[str]) -> str:
    why = (match["transport"] or match["reset"]).strip()
    return f"the edge answers, but the service behind it cannot be reached ({why})"
