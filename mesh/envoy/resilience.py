"""What keeps one failing region or one burst of calls from taking the rest along.

Circuit breakers and a retry budget in each cluster; outlier detection where there is another region
to go to.
"""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.type import v3 as types

from mesh.traffic import Bounds

_LONGEST_EJECTION = timedelta(seconds=30)


def circuit_breakers(bounds: Bounds) -> cluster.CircuitBreakers:
    """Calls beyond them fail with UNAVAILABLE at once; retries beyond their budget are not made."""
    return cluster.CircuitBreakers(
        thresholds=[
            cluster.CircuitBreakersThresholds(
                max_connections=bounds.connections,
                max_pending_requests=bounds.pending,
                max_requests=bounds.requests,
                retry_budget=cluster.CircuitBreakersThresholdsRetryBudget(
                    budget_percent=types.Percent(value=bounds.retry_percent),
                    min_retry_concurrency=bounds.retries,
                ),
            )
        ]
    )


def outlier_detection(bounds: Bounds) -> cluster.OutlierDetection:
    """A region that fails in a row is left alone for a while.

    What counts is what a gateway would answer with 502 to 504: no connection, no answer in time,
    and of the gRPC statuses UNAVAILABLE and DEADLINE_EXCEEDED. Envoy's other counter has INTERNAL,
    UNKNOWN and UNIMPLEMENTED too: one method with a bug, or of a newer contract, would take the
    whole region from everybody. No rate of success is compared: that takes more than some regions.

    A region may be ejected as a whole: with every region ejected Envoy panics, and tries them all
    the same.
    """
    return cluster.OutlierDetection(
        consecutive_gateway_failure=bounds.failures,
        enforcing_consecutive_gateway_failure=100,
        enforcing_consecutive_5xx=0,
        enforcing_success_rate=0,
        interval=timedelta(seconds=1),
        base_ejection_time=timedelta(seconds=bounds.ejected_for),
        max_ejection_time=max(_LONGEST_EJECTION, timedelta(seconds=bounds.ejected_for)),
        max_ejection_percent=100,
    )
