"""How a request says that it was sent before: a region that does not know it then asks the others.

A client says so itself, and a sidecar that retries counts its attempts. A request that was never
sent before costs no question.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

METADATA_KEY = "isthmus-attempt"
_SIDECARS_KEY = "x-envoy-attempt-count"
_REMEMBERED = 4096


def repeated(metadata: Iterable[tuple[str, Any]]) -> bool:
    """Whether a call's metadata say that it may have arrived before, here or elsewhere."""
    return any(
        key in (METADATA_KEY, _SIDECARS_KEY) and str(value).strip() not in ("", "0", "1")
        for key, value in metadata
    )


class Attempts:
    """The operation ids that a client has sent and got no answer for, the newest of them."""

    def __init__(self) -> None:
        self._sent: OrderedDict[str, int] = OrderedDict()

    def sending(self, request: Any) -> tuple[str, str] | None:
        """A request goes out: what to send along, if it is not the first time."""
        request_id: str = getattr(request, "request_id", "")
        if not request_id:
            return None
        attempt = self._sent.pop(request_id, 0) + 1
        self._sent[request_id] = attempt
        if len(self._sent) > _REMEMBERED:
            self._sent.popitem(last=False)
        return (METADATA_KEY, str(attempt)) if attempt > 1 else None
