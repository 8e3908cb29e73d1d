"""Typed errors: their codes, and replication's translated."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2

from mesh import replication
from mesh.runtime import errors
from mesh.runtime.write_errors import typed

TYPES = [errors.RpcError, *errors.RpcError.__subclasses__()]


@pytest.mark.parametrize("kind", TYPES)
def test_each_error_is_a_status_with_its_reason(kind: type[errors.RpcError]) -> None:
    status = kind("text", reason="WHY", metadata={"a": "b"}).status()
    assert (status.code, status.message) == (kind.code.value[0], "text")
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == ("WHY", "isthmus.dev", {"a": "b"})


def test_codes_are_distinct() -> None:
    assert len({kind.code for kind in TYPES}) == len(TYPES)


def test_bad_fields_are_listed_in_message_and_details() -> None:
    error = errors.InvalidArgument.fields({"a.b": "is too long", "c": "is missing"})
    assert error.message == "invalid request: a.b: is too long; c: is missing"
    bad = error_details_pb2.BadRequest()
    assert error.status().details[1].Unpack(bad)
    assert [(v.field, v.description) for v in bad.field_violations] == [
        ("a.b", "is too long"),
        ("c", "is missing"),
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (replication.AlreadyExists("x"), grpc.StatusCode.ALREADY_EXISTS),
        (replication.NotFound("x"), grpc.StatusCode.NOT_FOUND),
        (replication.RequestIdReused("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (replication.OriginChanged("x"), grpc.StatusCode.ABORTED),
        (replication.WatcherTooSlow("x"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (replication.StoreFull("x"), grpc.StatusCode.UNAVAILABLE),
        (replication.GroupClosed("x"), grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_replications_errors_have_a_status(error: Exception, code: grpc.StatusCode) -> None:
    answer = typed(error)
    assert answer is not None
    assert (answer.code, answer.message) == (code, "x")


def test_a_home_is_named_to_whoever_asked_elsewhere() -> None:
    answer = typed(replication.NotHome(("isthmus.tests.Person", "p"), "us", "eu"))
    assert answer is not None and answer.code is grpc.StatusCode.FAILED_PRECONDITION
    found = error_details_pb2.ErrorInfo()
    assert answer.status().details[0].Unpack(found)
    assert (found.reason, dict(found.metadata)) == ("NOT_HOME", {"home": "us"})
    assert "send the request to us" in answer.message


def test_a_group_is_its_first_typed_member() -> None:
    found = errors.NotFound("x", reason="X")
    inner = ExceptionGroup("inner", [ValueError(), found])
    assert typed(ExceptionGroup("outer", [KeyError(), inner])) is found
    assert typed(ExceptionGroup("outer", [KeyError()])) is None
    assert typed(ValueError()) is None
