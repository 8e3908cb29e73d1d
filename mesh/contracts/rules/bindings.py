"""Methods that are called as JSON over plain HTTP: `google.api.http`."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf import descriptor_pb2
from isthmus.options.v1 import options_pb2

from mesh.contracts import exceptions
from mesh.contracts.bindings import HTTP, bindings, rules, shape, variables, well_formed
from mesh.contracts.model import Binding
from mesh.contracts.rules.rule import Problem, Rule, Subject
from mesh.contracts.schema import FieldNode, MessageNode, MethodNode, Schema

_ROLES = {options_pb2.ROLE_OPERATOR, options_pb2.ROLE_DEVICE}
_WITH_BODY = ("POST", "PUT", "PATCH")
_VERBS = ("GET", *_WITH_BODY, "DELETE")


def _bound(subject: Subject) -> Iterator[tuple[MethodNode, Binding]]:
    for method in subject.schema.methods():
        for binding in bindings(method):
            yield method, binding


def _problem(method: MethodNode, what: str, remedy: str) -> Problem:
    return Problem(method.source.at(HTTP), f"{method.name}: {what}", remedy)


def _path(subject: Subject) -> Iterator[Problem]:
    for method, binding in _bound(subject):
        if binding.verb not in _VERBS:
            yield _problem(
                method,
                "google.api.http names no verb that an edge carries",
                'write one of get, post, put, patch or delete, such as get: "/v1/orders"',
            )
        elif not well_formed(binding.path):
            yield _problem(
                method,
                f'"{binding.path}" is no path',
                'write one such as "/v1/orders/{order_id}" or "/v1/orders/{order_id}:cancel"',
            )
        elif binding.path.startswith(exceptions.METRICS.prefix):
            yield _problem(
                method,
                f'"{binding.path}" is where the pages of metrics are',
                "begin with the version, such as /v1/",
            )


def _twice(subject: Subject) -> Iterator[Problem]:
    taken: dict[tuple[str, str], MethodNode] = {}
    for method, binding in _bound(subject):
        if not well_formed(binding.path):
            continue
        first = taken.setdefault((binding.verb, shape(binding.path)), method)
        if first is not method:
            yield _problem(
                method,
                f"{binding.verb} {binding.path} is also how {first.name} is called",
                f"give one of them another path; the other is at {first.source.at(HTTP)}",
            )


def _fields(subject: Subject) -> Iterator[Problem]:
    for method, binding in _bound(subject):
        request = subject.schema.messages.get(method.proto.input_type.lstrip("."))
        if request is None or not well_formed(binding.path):
            continue
        known = ", ".join(field.name for field in request.fields) or "no field at all"
        for name in variables(binding.path):
            if not _is_plain(_field(subject.schema, request, name)):
                yield _problem(
                    method,
                    f"{{{name}}} is no single plain value of {request.name}",
                    f"name a field of the request that holds one; it has {known}",
                )
        if binding.body not in ("", "*") and request.field(binding.body) is None:
            yield _problem(
                method,
                f'body "{binding.body}" is no field of {request.name}',
                f'write "*" for all that the path does not set, or one of {known}',
            )


def _streaming(subject: Subject) -> Iterator[Problem]:
    for method in subject.schema.methods():
        if method.proto.client_streaming and bindings(method):
            yield _problem(
                method,
                "a JSON request is one message, and this method takes a stream",
                "leave google.api.http out, or add a method that takes one message",
            )


def _side_effects(subject: Subject) -> Iterator[Problem]:
    for method, binding in _bound(subject):
        level = method.proto.options.idempotency_level
        if binding.verb == "GET" and level != descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS:
            yield _problem(
                method,
                "browsers and caches repeat a GET, or make one, without being asked to",
                'write post with body: "*", or option idempotency_level = NO_SIDE_EFFECTS; '
                "if it has none",
            )


def _body(subject: Subject) -> Iterator[Problem]:
    for method, binding in _bound(subject):
        if binding.verb in _WITH_BODY and not binding.body:
            yield _problem(
                method,
                f"what is sent with a {binding.verb} would be dropped in silence",
                'add body: "*"',
            )
        elif binding.verb not in _WITH_BODY and binding.body:
            yield _problem(
                method,
                f"a {binding.verb} has no body that proxies would keep",
                "leave body out: what the path does not set comes as query parameters",
            )


def _nobody(subject: Subject) -> Iterator[Problem]:
    for method in subject.schema.methods():
        if bindings(method) and not _ROLES.intersection(method.contract.callers.roles):
            yield _problem(
                method,
                "google.api.http is for who comes through an edge, and no role may call this",
                "add roles: ROLE_OPERATOR to its callers, or leave google.api.http out",
            )


def _unanswered(subject: Subject) -> Iterator[Problem]:
    for method in subject.schema.methods():
        if any(rule.response_body for rule in rules(method)):
            yield _problem(
                method,
                "response_body is enforced by nothing",
                "leave it out: the answer is the whole response message",
            )


def _field(schema: Schema, message: MessageNode, path: str) -> FieldNode | None:
    """The field that a path of names leads to, through messages that are not lists."""
    name, _, rest = path.partition(".")
    found = message.field(name)
    if not rest or found is None:
        return found
    inner = schema.messages.get(found.type)
    return None if inner is None or found.repeated else _field(schema, inner, rest)


def _is_plain(field: FieldNode | None) -> bool:
    return field is not None and not field.repeated and not field.is_message


RULES = (
    Rule("HTTP_PATH", "A method's JSON form has a verb and a path that edges carry.", _path),
    Rule("HTTP_PATH_TWICE", "A verb and a path lead to one method.", _twice),
    Rule("HTTP_FIELD", "A path and a body name fields of the request.", _fields),
    Rule("HTTP_STREAMING", "A JSON request is one message.", _streaming),
    Rule("HTTP_GET_CHANGES", "A GET has no side effects.", _side_effects),
    Rule("HTTP_BODY", "Nothing that is sent is dropped.", _body),
    Rule("HTTP_NOBODY", "A JSON form is for roles, who come through an edge.", _nobody),
    Rule("HTTP_RESPONSE_BODY", "An answer is the whole response.", _unanswered),
)
