"""A group's integrity as metrics: what was found damaged, and how old its proofs are."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from mesh.replication import Group

Observe = Callable[[CallbackOptions], Iterable[Observation]]


def observe_integrity(meter: Meter, group: Group) -> None:
    """Begins to show them."""

    def counted(field: str) -> Observe:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            value = getattr(group.status().integrity, field)
            return [Observation(value, {"group": group.name})]

        return observe

    def compared(field: str) -> Observe:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [
                Observation(getattr(pair, field), {"group": group.name, "peer": pair.peer})
                for pair in group.status().pairs
            ]

        return observe

    def age(_: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(
                pair.age.ToTimedelta().total_seconds(), {"group": group.name, "peer": pair.peer}
            )
            for pair in group.status().pairs
            if pair.HasField("equal_up_to")
        ]

    for name, field, text in (
        ("corruptions_found", "found", "What was found damaged since the start."),
        ("corruptions_repaired", "repaired", "What of it was repaired."),
    ):
        meter.create_observable_counter(
            f"isthmus_replication_{name}", [counted(field)], description=text
        )
    for name, field, text in (
        ("ranges_compared", "ranges_compared", "Ranges that were found equal to the peer's."),
        ("ranges_differed", "ranges_differed", "Ranges that differed from the peer's."),
    ):
        meter.create_observable_counter(
            f"isthmus_replication_{name}", [compared(field)], description=text
        )
    meter.create_observable_gauge(
        "isthmus_replication_proof_age",
        [age],
        unit="s",
        description="Since the comparison began that proved this region equal to the peer.",
    )
