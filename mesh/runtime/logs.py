"""JSON logs on stdout: one object a line, with region, workload and the current trace."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from opentelemetry import trace

from mesh.contracts import redaction
from mesh.place import Place

REDACTED = "[redacted]"


def configure(place: Place) -> None:
    """Sets up structlog for this process; `ISTHMUS_LOG_LEVEL` is debug, info, warning or error."""
    level = logging.getLevelNamesMapping().get(
        os.environ.get("ISTHMUS_LOG_LEVEL", "info").upper(), logging.INFO
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _trace,
        structlog.processors.format_exc_info,
    ]
    render = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stdout),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(region=place.region, workload=place.instance)
    # Libraries log through the standard library; what they have to say goes the same way.
    handler = logging.StreamHandler(sys.stdout)
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[remove, render], pass_foreign_args=False
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler])


def redacted(message: Message) -> dict[str, Any]:
    """A message as a dictionary for a log line.

    Without the values marked `debug_redact`, and without those that stay in a home region: where
    logs are gathered no contract says.
    """
    copy = type(message)()
    copy.CopyFrom(message)
    marked = redaction.strip(copy)
    shown: dict[str, Any] = MessageToDict(copy, preserving_proto_field_name=True)
    return shown | dict.fromkeys(marked, REDACTED)


def _trace(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = f"{span.trace_id:032x}"
        event["span_id"] = f"{span.span_id:016x}"
    return event
