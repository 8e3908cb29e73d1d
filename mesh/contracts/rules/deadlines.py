"""How long a call may take, how often it is tried, and how many may come."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf import descriptor_pb2
from isthmus.options.v1 import options_pb2

from mesh.contracts.build import seconds
from mesh.contracts.model import EVERY_WORKLOAD
from mesh.contracts.rules.rule import Problem, Rule, Subject
from mesh.contracts.schema import METHOD, MethodNode

_TIMEOUT = options_pb2.MethodContract.TIMEOUT_FIELD_NUMBER
_MAX_AGE = options_pb2.MethodContract.STREAM_MAX_AGE_FIELD_NUMBER
_RETRY = options_pb2.MethodContract.RETRY_FIELD_NUMBER
_RATE_LIMIT = options_pb2.MethodContract.RATE_LIMIT_FIELD_NUMBER
_UNKNOWN = descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN


def _unary_limits(subject: Subject) -> Iterator[Problem]:
    for method in subject.schema.methods():
        if method.streaming:
            continue
        contract = method.contract
        if not contract.HasField("timeout"):
            yield Problem(
                method.source.at(METHOD),
                f"{method.name} has no timeout: a caller could wait for ever",
                "add timeout: {seconds: 5} to `option (isthmus.options.v1.method)`",
            )
        elif seconds(contract.timeout) <= 0:
            yield _not_positive(method, _TIMEOUT, "timeout")
        if contract.HasField("stream_max_age"):
            yield Problem(
                method.source.at(METHOD, _MAX_AGE),
                f"{method.name} does not stream, so it has no stream_max_age",
                "write timeout instead",
            )


def _stream_limits(subject: Subject) -> Iterator[Problem]:
    for method in subject.schema.methods():
        if not method.streaming:
            continue
        contract = method.contract
        if contract.HasField("timeout"):
            yield Problem(
                method.source.at(METHOD, _TIMEOUT),
                f"{method.name} streams: a timeout would cut every stream, healthy ones too",
                "write stream_max_age: {seconds: 3600}, and renew the stream before it",
            )
        if not contract.HasField("stream_max_age"):
            yield Problem(
                method.source.at(METHOD),
                f"{method.name} streams and has no stream_max_age: "
                "nothing would end a revoked peer's stream",
                "add stream_max_age: {seconds: 3600}",
            )
        elif seconds(contract.stream_max_age) <= 0:
            yield _not_positive(method, _MAX_AGE, "stream_max_age")


def _not_positive(method: MethodNode, number: int, name: str) -> Problem:
    return Problem(
        method.source.at(METHOD, number),
        f"{method.name}: {name} is not above zero",
        f"write {name}: {{seconds: 5}}",
    )


def _retries(subject: Subject) -> Iterator[MethodNode]:
    return (m for m in subject.schema.methods() if m.contract.HasField("retry"))


def _retry_not_idempotent(subject: Subject) -> Iterator[Problem]:
    for method in _retries(subject):
        if method.proto.options.idempotency_level == _UNKNOWN:
            yield Problem(
                method.source.at(METHOD, _RETRY),
                f"{method.name} has a retry and no idempotency_level: "
                "a repeated call could take effect twice",
                "leave retry out, or write `option idempotency_level = IDEMPOTENT;` if a repeat "
                "has no second effect, or NO_SIDE_EFFECTS if the method only reads",
            )


def _retry_on_stream(subject: Subject) -> Iterator[Problem]:
    for method in _retries(subject):
        if method.streaming:
            yield Problem(
                method.source.at(METHOD, _RETRY),
                f"{method.name} streams: a sidecar cannot repeat a stream",
                "leave retry out; the client opens a new stream",
            )


def _retry_incomplete(subject: Subject) -> Iterator[Problem]:
    for method in _retries(subject):
        retry = method.contract.retry
        if retry.attempts < 2 or seconds(retry.per_try) <= 0:
            yield Problem(
                method.source.at(METHOD, _RETRY),
                f"{method.name}: a retry is two attempts or more, each with a limit",
                "write retry: {attempts: 3 per_try: {seconds: 1}}, or leave retry out",
            )


def _retry_beyond_timeout(subject: Subject) -> Iterator[Problem]:
    for method in _retries(subject):
        contract = method.contract
        if not contract.HasField("timeout"):
            continue
        attempts, per_try = contract.retry.attempts, seconds(contract.retry.per_try)
        timeout = seconds(contract.timeout)
        if attempts * per_try > timeout:
            yield Problem(
                method.source.at(METHOD, _RETRY),
                f"{method.name}: {attempts} attempts × {per_try:g} s is "
                f"{attempts * per_try:g} s, beyond the timeout of {timeout:g} s",
                f"write a per_try of at most {timeout / attempts:.3g} s, or fewer attempts, "
                "or a longer timeout",
            )


def _rate_limit_incomplete(subject: Subject) -> Iterator[Problem]:
    for method in subject.schema.methods():
        limit = method.contract.rate_limit
        if method.contract.HasField("rate_limit") and not limit.per_second:
            yield Problem(
                method.source.at(METHOD, _RATE_LIMIT),
                f"{method.name}: a rate_limit without per_second would let no call through",
                "write rate_limit: {per_second: 100 burst: 20}, or leave rate_limit out",
            )


def _shorter_than_dependency(subject: Subject) -> Iterator[Problem]:
    """A method depends on each method that lists its workload as a caller.

    Both unary, both with a timeout; `any_workload` and `peers` make no dependency, and neither do
    platform services, which every workload serves: they call nobody and are called by the mesh.
    The contract does not say which method calls which, so every method of the calling workload
    that comes from outside of it has to leave time for the slowest one that it may call.
    """
    unary = [
        method
        for method in subject.schema.methods()
        if method.contract.HasField("timeout")
        and not method.streaming
        and method.service.contract.workload != EVERY_WORKLOAD
    ]
    for method in unary:
        workload = method.service.contract.workload
        timeout = seconds(method.contract.timeout)
        for dependency in unary:
            needed = seconds(dependency.contract.timeout)
            if (
                workload in dependency.contract.callers.workloads
                and dependency.service.contract.workload != workload
                and timeout < needed
            ):
                yield Problem(
                    method.source.at(METHOD, _TIMEOUT),
                    f"{method.name}: its timeout of {timeout:g} s is shorter than the "
                    f"{needed:g} s of {dependency.name}, which {workload} calls "
                    f"({dependency.source.at(METHOD, _TIMEOUT)})",
                    f"write a timeout of at least {needed:g} s here, or at most {timeout:g} s "
                    "there",
                )


RULES = (
    Rule("TIMEOUT_MISSING", "A unary call has a deadline above zero.", _unary_limits),
    Rule("STREAM_LIMIT", "A stream has a greatest age and no deadline.", _stream_limits),
    Rule(
        "RETRY_NOT_IDEMPOTENT",
        "Only a method that declares itself idempotent is repeated.",
        _retry_not_idempotent,
    ),
    Rule("RETRY_ON_STREAM", "Streams are renewed by clients, not repeated.", _retry_on_stream),
    Rule("RETRY_INCOMPLETE", "A retry says how often and how long.", _retry_incomplete),
    Rule("RETRY_BEYOND_TIMEOUT", "All attempts fit the deadline.", _retry_beyond_timeout),
    Rule("RATE_LIMIT_INCOMPLETE", "A rate limit says how often.", _rate_limit_incomplete),
    Rule(
        "TIMEOUT_BELOW_DEPENDENCY",
        "A method waits at least as long as what it calls.",
        _shorter_than_dependency,
    ),
)
