"""The one server interceptor: every call passes it before its method runs.

Principal, then authorization, then the values of each request message; afterwards errors become
statuses, and the call is logged and counted.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from time import monotonic, perf_counter
from typing import Any

import grpc
import structlog
from google.protobuf.message import Message
from opentelemetry import metrics

from mesh.identity.end_principals import METADATA_KEY as END_KEY
from mesh.identity.end_principals import EndPrincipal
from mesh.runtime.attempts import repeated
from mesh.runtime.authorization import Rule, authorize
from mesh.runtime.context import Call, current, trace_parent
from mesh.runtime.end_principals import EndPrincipals
from mesh.runtime.errors import InvalidArgument, Unauthenticated, abort
from mesh.runtime.logs import redacted
from mesh.runtime.principal import UNENROLLED, Principal, UntrustedCaller, from_header
from mesh.runtime.session_tokens import METADATA_KEY
from mesh.runtime.sessions import Sessions
from mesh.runtime.values import Validation
from mesh.runtime.write_errors import typed

HEALTH = "/grpc.health.v1.Health/"
_ANSWER_SHARE, _ANSWER_SECONDS = 0.2, 0.05
"""What is kept of a call's time for its answer's way back."""

_log = structlog.get_logger("isthmus.rpc")
_duration = metrics.get_meter("isthmus").create_histogram(
    "isthmus_rpc_server_duration",
    unit="s",
    description="From the first byte to the status.",
    explicit_bucket_boundaries_advisory=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5),
)


class Gate(grpc.aio.ServerInterceptor):
    """Admits calls to the methods of one instance."""

    def __init__(
        self,
        rules: Mapping[str, Rule],
        workload: str,
        region: str,
        trust_domain: str,
        sessions: Sessions,
        ends: EndPrincipals,
    ) -> None:
        self._rules = rules
        self._sessions = sessions
        self._ends = ends
        self._workload = workload
        self._region = region
        self._trust_domain = trust_domain
        self._validation = Validation()
        self._answering = 0
        self._none = asyncio.Event()
        self._none.set()

    async def answered(self, within: float) -> None:
        """Returns once every call that has one answer has it, or after `within` seconds."""
        try:
            async with asyncio.timeout(within):
                await self._none.wait()
        except TimeoutError:
            _log.warning("calls are in flight still", calls=self._answering)

    @contextmanager
    def _in_flight(self) -> Iterator[None]:
        self._answering += 1
        self._none.clear()
        try:
            yield
        finally:
            self._answering -= 1
            if not self._answering:
                self._none.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of one call, whichever of the four kinds it is."""
        handler = await continuation(details)
        if handler is None or details.method.startswith(HEALTH):
            # Health says nothing that a caller of its socket may not know, and the sidecar's own
            # check comes without a principal.
            return handler
        header = ",".join(
            str(value)
            for key, value in details.invocation_metadata or ()
            if key == "x-forwarded-client-cert"
        )
        token = _binary(details, METADATA_KEY)
        end = _binary(details, END_KEY)
        if handler.response_streaming:
            kind = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            behavior = self._streamed(handler, details.method, header, end)
        else:
            kind = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            again = repeated(details.invocation_metadata or ())
            behavior = self._answered(handler, details.method, header, end, token, again)
        return kind(behavior, handler.request_deserializer, handler.response_serializer)

    def _answered(
        self, handler: Any, method: str, header: str, end: bytes, token: bytes, again: bool
    ) -> Callable[..., Any]:
        inner = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def behavior(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            with self._in_flight():
                return await answer(request, context)

        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with self._call(method, header, end, context, again) as call:
                seen = await self._sessions.enter(self._rules[method], token, call.deadline)
                checked = self._checked(request, context)
                if isinstance(request, Message):
                    self._sessions.check_home(self._rules[method], request)
                response = await inner(*checked)
                self._sessions.leave(context, seen)
                return response

        return behavior

    def _streamed(self, handler: Any, method: str, header: str, end: bytes) -> Callable[..., Any]:
        inner = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def generator(
            request: Any, context: grpc.aio.ServicerContext[Any, Any]
        ) -> AsyncIterator[Any]:
            async with self._call(method, header, end, context):
                async for response in inner(*self._checked(request, context)):
                    yield response

        async def writer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            async with self._call(method, header, end, context):
                await inner(*self._checked(request, context))

        return generator if inspect.isasyncgenfunction(inner) else writer

    def _checked(self, request: Any, context: Any) -> tuple[Any, Any]:
        """What a method gets: nothing comes to it unchecked, by whichever way it reads."""
        if isinstance(request, Message):
            self._check(request)
            return request, context
        return self._each_checked(request), _CheckedReads(context, self._check)

    async def _each_checked(self, requests: AsyncIterable[Message]) -> AsyncIterator[Message]:
        async for request in requests:
            self._check(request)
            yield request

    def _check(self, request: Message) -> None:
        if _log.is_enabled_for(logging.DEBUG):
            _log.debug("request", type=request.DESCRIPTOR.full_name, request=redacted(request))
        violations = self._validation.violations(request)
        if violations:
            raise InvalidArgument.fields(violations)

    @asynccontextmanager
    async def _call(
        self,
        method: str,
        header: str,
        signed: bytes,
        context: grpc.aio.ServicerContext[Any, Any],
        again: bool = False,
    ) -> AsyncIterator[Call]:
        started = perf_counter()
        principal: Principal | None = None
        end: EndPrincipal | None = None
        code = grpc.StatusCode.OK
        try:
            principal = self._admit(method, header)
            end = self._ends.read(signed, principal)
            # Never reset: each call is a task, and so a context, of its own.
            rule = self._rules[method]
            call = Call(method, principal, rule.durability, _deadline(rule, context), again, end)
            current.set(call)
            yield call
            code = _status_code(context.code()) if context.code() else code
        except grpc.aio.AbortError:
            code = _status_code(context.code())
            raise
        except Exception as error:
            answer = typed(error)
            if answer is not None:
                code = answer.code
                await abort(context, answer)
            code = grpc.StatusCode.INTERNAL
            _log.exception("call failed unexpectedly", method=method, principal=str(principal))
            await context.abort(code, "internal error; the service's log has it by trace id")
        except BaseException:
            # The client went away or its deadline passed: grpc cancels the method's task.
            code = grpc.StatusCode.CANCELLED
            raise
        finally:
            self._finished(method, principal, end, code, perf_counter() - started)

    def _admit(self, method: str, header: str) -> Principal:
        rule = self._rules.get(method)
        if rule is None:
            raise Unauthenticated(
                f"{method[1:]} is in no contract", reason="METHOD_NOT_IN_CONTRACT"
            )
        if not header:
            principal = UNENROLLED
        else:
            try:
                principal = from_header(header, self._trust_domain)
            except UntrustedCaller as error:
                raise Unauthenticated(str(error), reason="UNTRUSTED_CALLER") from None
        authorize(rule, principal, self._workload, self._region)
        return principal

    def _finished(
        self,
        method: str,
        principal: Principal | None,
        end: EndPrincipal | None,
        code: grpc.StatusCode,
        seconds: float,
    ) -> None:
        kind = principal.kind if principal else "unknown"
        _duration.record(seconds, {"method": method[1:], "code": code.name, "caller": kind})
        _log.info(
            "call",
            method=method[1:],
            principal=str(principal) if principal else None,
            hop=principal.hop if principal else None,
            on_behalf_of=end.identity.uri if end else None,
            status=code.name,
            seconds=round(seconds, 6),
            trace_parent=trace_parent(),
        )


class _CheckedReads:
    """A call's context, whose `read` checks each message as the request iterator does."""

    def __init__(
        self, context: grpc.aio.ServicerContext[Any, Any], check: Callable[[Message], None]
    ) -> None:
        self._context = context
        self._check = check

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        """The client's next message, or `grpc.aio.EOF`."""
        request = await self._context.read()
        if isinstance(request, Message):
            self._check(request)
        return request


def _binary(details: grpc.HandlerCallDetails, name: str) -> bytes:
    """The metadata of that name; empty if there is none."""
    return b"".join(
        value
        for key, value in details.invocation_metadata or ()
        if key == name and isinstance(value, bytes)
    )


def _deadline(rule: Rule, context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """When to answer at the latest, so that the answer comes before the caller's deadline."""
    if rule.timeout is None:
        return None
    left = context.time_remaining()
    left = rule.timeout if left is None else min(left, rule.timeout)
    return monotonic() + left - max(left * _ANSWER_SHARE, _ANSWER_SECONDS)


def _status_code(code: object) -> grpc.StatusCode:
    """grpc.aio keeps the number, or nothing where no status was set."""
    for known in grpc.StatusCode:
        if code in (known, known.value[0]):
            return known
    return grpc.StatusCode.UNKNOWN
