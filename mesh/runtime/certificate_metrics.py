"""An instance's certificates as metrics: when each of the chain ends, and whether it should not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from mesh.identity import expiry
from mesh.identity.expiry import Level
from mesh.place import Place


def observe_certificates(meter: Meter, place: Place, clock: Callable[[], int]) -> None:
    """Begins to show them; `clock` gives nanoseconds since 1970."""

    def leaf(_: CallbackOptions) -> Iterable[Observation]:
        ends = [each.not_after for each in expiry.lifetimes(place.identity)]
        return [Observation(int(end.timestamp())) for end in ends[:1]]

    def issuers(_: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(int(each.not_after.timestamp()), {"level": each.level.value})
            for each in expiry.lifetimes(place.identity)[1:]
        ]

    def overdue(_: CallbackOptions) -> Iterable[Observation]:
        now = datetime.fromtimestamp(clock() / 1e9, UTC)
        found = expiry.lifetimes(place.identity)
        warned = {each.level for each in expiry.overdue(found, now)}
        return [Observation(int(level in warned), {"level": level.value}) for level in Level]

    for name, observe, unit, text in (
        (
            "certificate_expiry_timestamp",
            leaf,
            "s",
            "When the instance's leaf expires, in seconds since 1970.",
        ),
        (
            "issuer_expiry_timestamp",
            issuers,
            "s",
            "When the issuing certificate and the root above it expire, in seconds since 1970.",
        ),
        (
            "certificate_overdue",
            overdue,
            "1",
            "Whether the certificate of that level should have been replaced by now.",
        ),
    ):
        meter.create_observable_gauge(f"isthmus_{name}", [observe], unit=unit, description=text)
