"""Faults on purpose in a route: delays and errors for some of its calls, until a moment.

Each Envoy ends a drill by its own clock, so that one ends also where no new configuration arrives:
a filter writes the second in which a call came into a header, which the fault asks for. Both
filters are in every listener and off, since a change of a listener would drain its connections.
"""

from __future__ import annotations

import math

from envoy_data_plane.envoy.config.common.mutation_rules import v3 as rules
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.common.fault import v3 as common
from envoy_data_plane.envoy.extensions.filters.http.fault import v3 as fault
from envoy_data_plane.envoy.extensions.filters.http.header_mutation import v3 as mutation
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type import v3 as types

from mesh.envoy.text import Packed
from mesh.traffic import Drill
from mesh.traffic.read import STATUSES

DRILL_HEADER = "x-isthmus-drill"
"""In each answer on a route with a drill: its name, and until when."""

_TIME_HEADER = "x-isthmus-second"
_CLOCK, _FAULT = "isthmus.drills.clock", "isthmus.drills"
_OVERWRITE = core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD


def filters() -> list[hcm.HttpFilter]:
    """What a listener needs for drills to come and go by its routes alone."""
    return [
        hcm.HttpFilter(name=_CLOCK, typed_config=Packed(mutation.HeaderMutation()), disabled=True),
        hcm.HttpFilter(name=_FAULT, typed_config=Packed(fault.HttpFault()), disabled=True),
    ]


def begin(found: route.Route, drill: Drill) -> None:
    """Puts a drill into a route."""
    second = core.HeaderValueOption(
        header=core.HeaderValue(key=_TIME_HEADER, value="%START_TIME(%s)%"),
        append_action=_OVERWRITE,
    )
    clock = mutation.HeaderMutationPerRoute(
        mutations=mutation.Mutations(request_mutations=[rules.HeaderMutation(append=second)])
    )
    found.typed_per_filter_config = {
        **found.typed_per_filter_config,
        _CLOCK: Packed(clock),
        _FAULT: Packed(_fault(drill)),
    }
    found.request_headers_to_remove = [_TIME_HEADER]
    said = f"{drill.name} until {drill.until.isoformat()}"
    found.response_headers_to_add = [
        *found.response_headers_to_add,
        core.HeaderValueOption(
            header=core.HeaderValue(key=DRILL_HEADER, value=said), append_action=_OVERWRITE
        ),
    ]


def _fault(drill: Drill) -> fault.HttpFault:
    share = types.FractionalPercent(
        numerator=round(drill.percent * 10_000),
        denominator=types.FractionalPercentDenominatorType.MILLION,
    )
    ended = types.Int64Range(start=0, end=math.ceil(drill.until.timestamp()))
    config = fault.HttpFault(
        headers=[route.HeaderMatcher(name=_TIME_HEADER, range_match=ended)],
        disable_downstream_cluster_stats=True,
    )
    if drill.delay:
        config.delay = common.FaultDelay(fixed_delay=drill.length, percentage=share)
    if drill.abort:
        status = STATUSES.index(drill.abort) + 1
        config.abort = fault.FaultAbort(grpc_status=status, percentage=share)
    return config
