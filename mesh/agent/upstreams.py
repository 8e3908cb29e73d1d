"""How an Envoy's ways to other workloads stand, by its statistics. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

PAGE = (
    "/stats?filter=^cluster%5C..*(membership_healthy%7Cmembership_total%7Cejections_active"
    "%7Cdefault%5C.(cx%7Crq%7Crq_pending%7Crq_retry)_open)$"
)
"""The admin interface's page of what is read here."""

_LINE = re.compile(
    r"cluster\.(?P<cluster>.+)\.(?:(?P<members>membership_healthy|membership_total)"
    r"|outlier_detection\.(?P<ejected>ejections_active)"
    r"|circuit_breakers\.default\.(?P<open>\w+)): (?P<value>\d+)"
)


@dataclass
class Upstream:
    """A cluster: its instances, how many of them are healthy, how many ejected; an open circuit."""

    cluster: str
    instances: int = 0
    healthy: int = 0
    ejected: int = 0
    open: bool = False


def upstreams(page: str) -> list[Upstream]:
    """The clusters of a statistics page, by name, those on the own host left out."""
    found: dict[str, Upstream] = {}
    for line in page.splitlines():
        match = _LINE.fullmatch(line)
        if match is None or "/" not in match["cluster"]:
            continue
        each = found.setdefault(match["cluster"], Upstream(match["cluster"]))
        value = int(match["value"])
        if match["members"] == "membership_total":
            each.instances = value
        elif match["members"]:
            each.healthy = value
        elif match["ejected"]:
            each.ejected = value
        else:
            each.open = each.open or value > 0
    return [found[name] for name in sorted(found)]
