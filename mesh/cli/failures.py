"""Turns whatever a command raises into one message and an exit code.

Modules are looked up among those already imported: an error of a library can only come from a
command that has loaded it, and `isthmus --help` should load none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from mesh.cli.exits import CommandError, Exit
from mesh.cli.upstream import in_words

_BY_CLASS = {
    "mesh.local.errors": (
        ("AlreadyUp", Exit.CONFLICT),
        ("NotRunning", Exit.CONFLICT),
        ("NotUp", Exit.UNREACHABLE),
        ("NotReady", Exit.NOT_READY),
        ("BadRequest", Exit.NOT_FOUND),
        ("LocalError", Exit.FAILED),
    ),
    "mesh.local.ports": (("NoFreePorts", Exit.NOT_READY),),
    "mesh.topology": (("TopologyError", Exit.USAGE),),
    "mesh.compat.errors": (
        ("NoVersion", Exit.NOT_FOUND),
        ("ToolMissing", Exit.NOT_READY),
        ("GateError", Exit.USAGE),
    ),
    "mesh.contracts": (("ContractError", Exit.USAGE),),
    "mesh.runtime.client": (("NoEdge", Exit.UNREACHABLE), ("NoIdentity", Exit.UNREACHABLE)),
    "mesh.identity.errors": (("IdentityError", Exit.FAILED),),
    "mesh.envoy.errors": (("EnvoyConfigError", Exit.FAILED),),
    "mesh.agent.errors": (("AgentError", Exit.FAILED),),
    "mesh.xds.why": (("Unclear", Exit.NOT_FOUND),),
}

_BY_STATUS = {
    "INVALID_ARGUMENT": Exit.USAGE,
    "OUT_OF_RANGE": Exit.USAGE,
    "NOT_FOUND": Exit.NOT_FOUND,
    "PERMISSION_DENIED": Exit.REFUSED,
    "UNAUTHENTICATED": Exit.REFUSED,
    "ALREADY_EXISTS": Exit.CONFLICT,
    "FAILED_PRECONDITION": Exit.CONFLICT,
    "ABORTED": Exit.CONFLICT,
    "UNAVAILABLE": Exit.UNREACHABLE,
    "DEADLINE_EXCEEDED": Exit.UNREACHABLE,
}

_SEE = "\n  see what is down with `isthmus status`"


def explain(error: BaseException) -> tuple[str, Exit] | None:
    """A message and a code, or None for what can only be a fault of Isthmus."""
    if isinstance(error, CommandError):
        return str(error), error.code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", Exit.INTERRUPTED
    detached = _loaded("mesh.local.detach", "DetachedFailed")
    if detached is not None and isinstance(error, detached):
        return str(error), Exit(error.code) if error.code in set(Exit) else Exit.FAILED
    for module, classes in _BY_CLASS.items():
        for name, code in classes:
            found = _loaded(module, name)
            if found is not None and isinstance(error, found):
                return in_words(str(error)) + (_SEE if name == "NoEdge" else ""), code
    rpc_error = _loaded("grpc.aio", "AioRpcError")
    if rpc_error is not None and isinstance(error, rpc_error):
        return _explain_status(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}", Exit.FAILED
    return None


def _loaded(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, None)


def _explain_status(error: Any) -> tuple[str, Exit]:
    code = error.code().name
    lines = _with_fields(in_words(error.details() or code), tuple(_violations(error)))
    if code == "UNAUTHENTICATED":
        lines.append("  is the operator's certificate still valid? `isthmus up` renews it")
    exit_code = _BY_STATUS.get(code, Exit.FAILED)
    return "\n".join(lines) + (_SEE if exit_code is Exit.UNREACHABLE else ""), exit_code


def _with_fields(message: str, violations: Sequence[str]) -> list[str]:
    """A message and each wrong field once: a service's message may list them too."""
    if not violations:
        return [message]
    heading, listed, _ = message.partition(violations[0])
    if listed and len(violations) == 1:
        return [message]
    return [heading.rstrip(), *(f"  {violation}" for violation in violations)]


def _violations(error: Any) -> Iterator[str]:
    """The fields that a `google.rpc.BadRequest` names."""
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    try:
        status = rpc_status.from_call(error)
    except ValueError:
        return
    for detail in status.details if status is not None else ():
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            for violation in bad.field_violations:
                yield f"{violation.field}: {violation.description}"
