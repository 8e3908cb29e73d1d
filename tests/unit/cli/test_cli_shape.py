"""The command without a mesh: help, usage errors, exit codes, and its reference page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from mesh.cli import failures, reference
from mesh.cli.exits import MEANINGS, CommandError, Exit
from mesh.cli.main import run
from mesh.local import errors as local_errors
from mesh.local.layout import Layout
from mesh.local.record import locked
from mesh.topology import load


def test_the_reference_page_is_in_step() -> None:
    assert reference.PAGE.read_text() == reference.render(), (
        "run `python -m mesh.cli.reference` and commit docs/cli.md"
    )


def test_every_exit_code_is_documented() -> None:
    assert set(MEANINGS) == set(Exit)
    page = reference.PAGE.read_text()
    for code in Exit:
        assert f"| {code.value} | {code.name} |" in page


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from mesh.cli.main import run\n"
        "code = run(['--help'])\n"
        "heavy = {'grpc', 'google.protobuf', 'rich.table', 'mesh.envoy', 'cryptography'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "channels" in done.stdout
    assert done.stderr == "[]\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["bogus"], "No such command 'bogus'"),
        (["channels", "get"], "Missing argument 'CHANNEL'"),
        (["channels", "create", "x", "--width", "wide"], "valid integer"),
        (
            ["channels", "create", "x", "--pattern", "nope"],
            "Invalid value for '--pattern': 'nope' is not one of 'bars', 'clock'.",
        ),
        (["channels", "create", "x", "--url", "https://a/b", "--file", "c"], "name one source"),
        (["channels", "update", "x"], "name something to change"),
        (["devices", "label", "x"], "--add or --remove"),
        (["local", "wan", "cut", "a", "b", "c"], "name one region, or two"),
        (["status", "--mesh", "/nonexistent/mesh.yaml"], "does not exist"),
    ],
)
def test_usage_errors(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == Exit.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("isthmus: ") and message in captured.err
    assert "Traceback" not in captured.err


def test_a_mesh_that_never_was_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mesh = tmp_path / "mesh.yaml"
    mesh.write_text(
        "version: 1\ntrust_domain: t.test\nworkloads: [authority]\n"
        "regions: [{name: eu, host: 127.0.0.1, base_port: 2000}]\n"
        "media: {root: media, origin: '127.0.0.1:1999'}\n"
    )
    layout = Layout.of(load(mesh))
    layout.state.mkdir()
    for command in (["status"], ["overview"], ["channels", "list"], ["devices", "list"]):
        assert run([*command, "--mesh", str(mesh)]) == Exit.UNREACHABLE
        assert "isthmus up" in capsys.readouterr().err
        with locked(layout):  # as by a supervisor that is up
            assert run([*command, "--mesh", str(mesh)]) == Exit.UNREACHABLE
        assert "the mesh makes one as it starts" in capsys.readouterr().err
    assert run(["local", "region", "kill", "eu", "--mesh", str(mesh)]) == Exit.UNREACHABLE
    assert run(["down", "--mesh", str(mesh)]) == Exit.OK


def rpc_error(code: grpc.StatusCode, details: str, trailing: bytes = b"") -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata(*([("grpc-status-details-bin", trailing)] if trailing else []))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details)


@pytest.mark.parametrize(
    "code, expected",
    [
        (grpc.StatusCode.NOT_FOUND, Exit.NOT_FOUND),
        (grpc.StatusCode.ALREADY_EXISTS, Exit.CONFLICT),
        (grpc.StatusCode.PERMISSION_DENIED, Exit.REFUSED),
        (grpc.StatusCode.UNAVAILABLE, Exit.UNREACHABLE),
        (grpc.StatusCode.INTERNAL, Exit.FAILED),
    ],
)
def test_statuses_have_codes(code: grpc.StatusCode, expected: Exit) -> None:
    explained = failures.explain(rpc_error(code, "what happened"))
    assert explained is not None
    message, exit_code = explained
    assert message.startswith("what happened")
    assert exit_code is expected


@pytest.mark.parametrize(
    ("message", "fields", "says"),
    [
        ("1 field is wrong", {"a": "too long"}, "1 field is wrong\n  a: too long"),
        ("invalid request: a: too long", {"a": "too long"}, "invalid request: a: too long"),
        (
            "invalid request: a: too long; b.c: no",
            {"a": "too long", "b.c": "no"},
            "invalid request:\n  a: too long\n  b.c: no",
        ),
        ("a: no", {"a": "no"}, "a: no"),
        ("not that way", {}, "not that way"),
    ],
)
def test_each_bad_field_is_named_once(message: str, fields: dict[str, str], says: str) -> None:
    bad = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=field, description=text)
            for field, text in fields.items()
        ]
    )
    status = status_pb2.Status(code=3, message=message)
    status.details.add().Pack(bad)
    error = rpc_error(grpc.StatusCode.INVALID_ARGUMENT, message, status.SerializeToString())
    assert failures.explain(error) == (says, Exit.USAGE)


@pytest.mark.parametrize(
    "error, expected",
    [
        (CommandError("no", Exit.CONFLICT), Exit.CONFLICT),
        (local_errors.AlreadyUp("up"), Exit.CONFLICT),
        (local_errors.NotRunning("dead"), Exit.CONFLICT),
        (local_errors.NotUp("down"), Exit.UNREACHABLE),
        (local_errors.NotReady("port"), Exit.NOT_READY),
        (local_errors.StartFailed("died"), Exit.FAILED),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
        (FileNotFoundError(2, "No such file or directory", "/x"), Exit.FAILED),
    ],
)
def test_errors_have_codes(error: BaseException, expected: Exit) -> None:
    explained = failures.explain(error)
    assert explained is not None
    assert explained[1] is expected


def test_a_fault_of_our_own_is_not_explained_away() -> None:
    assert failures.explain(AssertionError("bug")) is None
