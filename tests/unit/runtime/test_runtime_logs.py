"""JSON log lines, and that marked fields never reach them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.message import Message
from isthmus.channels.v1.channel_pb2 import Profile
from isthmus.channels.v1.channels_pb2 import CreateChannelRequest
from isthmus.mesh.v1.authority_pb2 import CreateJoinTokenResponse, EnrolRequest
from opentelemetry.sdk.trace import TracerProvider

from mesh.place import Place
from mesh.runtime.logs import REDACTED, configure, redacted
from tests.support.homes import Person

SECRET = "s3cr3t"  # noqa: S105 - what must not be seen


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place, after which logging is as it was."""
    before = structlog.get_config()
    handlers, level = logging.root.handlers[:], logging.root.level
    yield Place("eu", "channels", tmp_path / "mesh.yaml", tmp_path, tmp_path)
    structlog.configure(**before)
    structlog.contextvars.clear_contextvars()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def nested_type() -> type[Message]:
    """A message that holds a secret of its own, nested, repeated and in a map."""
    file = descriptor_pb2.FileDescriptorProto(
        name="nested.proto", package="nested", syntax="proto3"
    )
    outer = file.message_type.add(name="Outer")
    inner = file.message_type.add(name="Inner")
    secret = inner.field.add(name="secret", number=1, type=Field.TYPE_STRING, label=1)
    secret.options.debug_redact = True
    inner.field.add(name="open", number=2, type=Field.TYPE_STRING, label=1)
    for number, (name, label) in enumerate({"one": 1, "many": 3}.items(), 1):
        outer.field.add(
            name=name,
            number=number,
            type=Field.TYPE_MESSAGE,
            label=label,
            type_name=".nested.Inner",
        )
    entry = outer.nested_type.add(name="MappedEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=Field.TYPE_STRING, label=1)
    entry.field.add(
        name="value", number=2, type=Field.TYPE_MESSAGE, label=1, type_name=".nested.Inner"
    )
    outer.field.add(
        name="mapped",
        number=3,
        type=Field.TYPE_MESSAGE,
        label=3,
        type_name=".nested.Outer.MappedEntry",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("nested.Outer"))


def test_marked_fields_are_replaced() -> None:
    request = EnrolRequest(join_token=SECRET, signing_request=b"csr")
    assert redacted(request) == {"join_token": REDACTED, "signing_request": "Y3Ny"}
    assert request.join_token == SECRET


def test_an_unset_marked_field_is_not_mentioned() -> None:
    assert redacted(EnrolRequest()) == {}


def test_marked_fields_are_replaced_at_any_depth() -> None:
    outer = nested_type()()
    outer.one.secret = SECRET
    outer.one.open = "shown"
    outer.many.add(secret=SECRET, open="shown too")
    outer.mapped["a"].secret = SECRET
    shown = redacted(outer)
    assert SECRET not in json.dumps(shown)
    assert shown["one"] == {"open": "shown"}
    assert shown["many"] == [{"open": "shown too"}]
    assert {name for name, value in shown.items() if value == REDACTED} == {
        "one.secret",
        "many.secret",
        "mapped.secret",
    }


def test_other_fields_are_shown_under_their_own_names() -> None:
    request = CreateChannelRequest(channel_id="news", profile=Profile(frame_rate=25))
    assert redacted(request) == {"channel_id": "news", "profile": {"frame_rate": 25}}


def test_lines_are_json_with_place_and_trace(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(place)
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("span") as span:
        structlog.get_logger("t").info("hello", answer=redacted(CreateJoinTokenResponse()))
    structlog.get_logger("t").debug("not shown")
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (line["event"], line["level"]) == ("hello", "info")
    assert (line["region"], line["workload"]) == ("eu", "channels")
    assert line["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert line["timestamp"].endswith("Z")


def test_exceptions_are_one_line(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    configure(place)
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger("t").exception("failed")
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert "ValueError: broken" in line["exception"]


@pytest.mark.parametrize(("level", "shown"), [("debug", 1), ("warning", 0), ("nonsense", 0)])
def test_the_level_comes_from_the_environment(
    level: str,
    shown: int,
    place: Place,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ISTHMUS_LOG_LEVEL", level)
    configure(place)
    structlog.get_logger("t").debug("detail")
    assert len(capsys.readouterr().out.splitlines()) == shown


def test_what_stays_in_a_home_region_is_in_no_log() -> None:
    papers = Person.Papers(kind="old", passport=b"secret")
    request = Person(id="p", title="t", pin=b"secret", doctors=["secret"], papers=papers)
    assert redacted(request) == {
        "id": "p",
        "title": "t",
        "papers": {"kind": "old"},
        "pin": REDACTED,
        "doctors": REDACTED,
        "papers.passport": REDACTED,
    }
