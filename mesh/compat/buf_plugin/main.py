"""``buf-plugin-isthmus``: what buf runs, with a request on stdin and the answer on stdout."""

from __future__ import annotations

import sys
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from mesh.compat.buf_plugin.checks import METHODS
from mesh.compat.buf_plugin.messages import CHECK, POOL, new
from mesh.compat.errors import GateError

_PROTOCOL = 1
_USAGE = 2
_INVALID_ARGUMENT = 3
_PATHS = {f"/{CHECK}.CheckService/{name}": name for name in METHODS}


def main() -> int:
    """The exit code: 0 once there is an answer, be it an error; else buf reports what is said."""
    arguments = sys.argv[1:]
    as_json = False
    if "--format" in arguments:
        at = arguments.index("--format")
        chosen = arguments[at + 1 : at + 2]
        del arguments[at : at + 2]
        if chosen not in (["binary"], ["json"]):
            return _refuse("--format is binary or json")
        as_json = chosen == ["json"]
    match arguments:
        case ["--protocol"]:
            print(_PROTOCOL)
        case ["--spec"]:
            spec: Any = new("pluginrpc.v1.Spec")
            for path in _PATHS:
                spec.procedures.add(path=path)
            _write(spec, as_json)
        case [path] if path in _PATHS:
            _write(_answer(_PATHS[path], sys.stdin.buffer.read(), as_json), as_json)
        case _:
            return _refuse(
                "this is a check plugin of buf, which runs it: write `plugins: [{plugin: "
                "buf-plugin-isthmus}]` into buf.yaml, and ISTHMUS below `breaking.use`"
            )
    return 0


def _answer(method: str, data: bytes, as_json: bool) -> Any:
    response: Any = new("pluginrpc.v1.Response")
    try:
        answer = METHODS[method](_request(method, data, as_json))
    except (GateError, DecodeError, json_format.ParseError) as error:
        response.error.code, response.error.message = _INVALID_ARGUMENT, str(error)
    else:
        response.value.Pack(answer)
    return response


def _request(method: str, data: bytes, as_json: bool) -> Any:
    """What is asked; nothing at all is an empty request."""
    outer: Any = new("pluginrpc.v1.Request")
    if as_json and data:
        json_format.Parse(data, outer, descriptor_pool=POOL)
    else:
        outer.ParseFromString(data)
    request: Any = new(f"{CHECK}.{method}Request")
    if outer.HasField("value") and not outer.value.Unpack(request):
        raise DecodeError(f"{method} takes no {outer.value.type_url or 'value without a type'}")
    return request


def _write(answer: Any, as_json: bool) -> None:
    data = (
        json_format.MessageToJson(answer, descriptor_pool=POOL).encode()
        if as_json
        else answer.SerializeToString()
    )
    sys.stdout.buffer.write(data)


def _refuse(why: str) -> int:
    print(f"buf-plugin-isthmus: {why}", file=sys.stderr)
    return _USAGE


if __name__ == "__main__":
    sys.exit(main())
