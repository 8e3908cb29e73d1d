"""The ways into an edge: JSON, gRPC-Web and tokens. On each the contract decides, and no client."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from mesh.contracts.model import Binding, Contract
from mesh.contracts.transcoding import transcoding
from mesh.identity.spiffe import DeviceId, OperatorId, WorkloadId
from mesh.local.ports import claim_blocks
from mesh.place import EDGE
from mesh.runtime.errors import NotFound, abort
from mesh.runtime.principal import from_header
from tests.e2e.sidecars import CONTRACT, DOMAIN, SERVICE, App, SmallMesh, call, path, status_of
from tests.e2e.web import Answer, connected
from tests.support.tokens import AUDIENCE, ISSUER, Issuer

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

ORIGIN = "https://console.example.org"
OPERATOR = OperatorId(DOMAIN, "first")
DEVICE = DeviceId(DOMAIN, "encoder-1")
EDGE_EU = f"spiffe://{DOMAIN}/region/eu/workload/edge"
_BINDINGS = {
    "Operate": Binding("GET", "/v1/items/{name}"),
    "Change": Binding("POST", "/v1/items/{name}:change", "*"),
    "Report": Binding("POST", "/v1/reports", "*"),
    # Only workloads call it: it stays out of reach.
    "Echo": Binding("GET", "/v1/echo"),
}


def _messages() -> descriptor_pb2.FileDescriptorProto:
    """A message of two texts."""
    file = descriptor_pb2.FileDescriptorProto(name="test.proto", package="test.v1", syntax="proto3")
    message = file.message_type.add(name="Text")
    for number, name in ((1, "name"), (2, "note")):
        kind = descriptor_pb2.FieldDescriptorProto
        message.field.add(
            name=name, number=number, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL
        )
    return file


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_messages())  # type: ignore[no-untyped-call]  # it has no types
Text = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("test.v1.Text"))


class TextApp(App):
    """Answers with what it was asked, and who asked."""

    async def answer(self, request: bytes, caller: str, context: Any) -> bytes:
        """The caller is in `note`."""
        asked: Any = Text.FromString(request)
        if asked.name == "missing":
            await abort(context, NotFound("there is no missing", reason="NOT_FOUND"))
        name = f"{self.region} {asked.name} {asked.note}"
        return Text(name=name, note=caller).SerializeToString()


def _contract() -> Contract:
    """The test service with such messages, and JSON forms."""
    file = _messages()
    service = file.service.add(name=SERVICE.rpartition(".")[2])
    whole = CONTRACT.services[SERVICE]
    methods = []
    for method in whole.methods:
        binding = _BINDINGS.get(method.name)
        added = service.method.add(
            name=method.name, input_type=".test.v1.Text", output_type=".test.v1.Text"
        )
        if binding is not None:
            rule = added.options.Extensions[annotations_pb2.http]
            setattr(rule, binding.verb.lower(), binding.path)
            rule.body = binding.body
            method = replace(method, http=(binding,))
        methods.append(method)
    services = {**CONTRACT.services, SERVICE: replace(whole, methods=tuple(methods))}
    contract = replace(CONTRACT, services=services)
    image = descriptor_pb2.FileDescriptorSet(file=[file])
    return replace(contract, transcoding=transcoding(image, contract))


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(
    tmp_path_factory: pytest.TempPathFactory, issuer: Issuer
) -> AsyncIterator[SmallMesh]:
    """Open to one page, and to operators by token; what an edge lets in leaves nothing behind."""
    state = tmp_path_factory.mktemp("opened")
    (state / "keys.json").write_text(issuer.key_set())
    access = (
        f"edge: {{origins: [{ORIGIN}], "
        f"jwt: {{issuer: {ISSUER}, audience: {AUDIENCE}, keys: keys.json}}}}"
    )
    async with _mesh(state, access) as made:
        yield made


@pytest.fixture
def mesh(opened: SmallMesh) -> SmallMesh:
    """That one, as if nobody had called yet."""
    opened.apps["eu"].seen.clear()
    return opened


@pytest_asyncio.fixture(loop_scope="module")
async def closed(tmp_path: Path) -> AsyncIterator[SmallMesh]:
    """Open to certificates alone, as a mesh is that says nothing."""
    async with _mesh(tmp_path, "") as made:
        yield made


@asynccontextmanager
async def _mesh(state: Path, access: str) -> AsyncIterator[SmallMesh]:
    claim = claim_blocks(2)
    run = Path(tempfile.mkdtemp(prefix="ist-"))  # sockets need a short path
    ports = list(claim.bases)
    small = SmallMesh(state, run, ports, contract=_contract(), access=access, app=TextApp)
    try:
        await small.start(("eu", "beta"), ("eu", EDGE))
        yield small
    finally:
        await small.close()
        shutil.rmtree(run)
        claim.release()


async def _ask(
    mesh: SmallMesh,
    method: str,
    target: str,
    *,
    identity: OperatorId | DeviceId | WorkloadId | None = None,
    token: str = "",
    headers: Mapping[str, str] | None = None,
    body: Any = None,
) -> Answer:
    sent = dict(headers or {})
    if token:
        sent["authorization"] = f"Bearer {token}"
    data = b""
    if body is not None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent.setdefault("content-type", "application/json")
    async with connected(mesh, identity) as connection:
        return await connection.request(method, target, sent, data)


def _caller(answer: Answer) -> Any:
    """The principal that the application saw."""
    assert answer.status == 200, answer
    return from_header(json.loads(answer.body)["note"], DOMAIN)


@pytest.mark.proves("google.api.http")
async def test_json_with_a_certificate_and_with_a_token(mesh: SmallMesh, issuer: Issuer) -> None:
    by_certificate = await _ask(mesh, "GET", "/v1/items/a%20b?note=c", identity=OPERATOR)
    by_token = await _ask(mesh, "GET", "/v1/items/a%20b?note=c", token=issuer.token("ann"))
    assert json.loads(by_token.body)["name"] == "eu a b c"
    for answer, name in ((by_certificate, "first"), (by_token, "ann")):
        caller = _caller(answer)
        assert (caller.kind, caller.name, caller.hop) == ("operator", name, EDGE_EU)
    changed = await _ask(
        mesh, "POST", "/v1/items/x:change", token=issuer.token("ann"), body={"note": "y"}
    )
    assert json.loads(changed.body)["name"] == "eu x y"
    # The token goes no further than the edge.
    assert "authorization" not in mesh.apps["eu"].metadata


async def test_errors_are_json_with_the_status_that_http_has_for_them(mesh: SmallMesh) -> None:
    answer = await _ask(mesh, "GET", "/v1/items/missing", identity=OPERATOR)
    assert answer.status == 404
    told = json.loads(answer.body)
    assert (told["code"], told["message"]) == (5, "there is no missing")
    assert told["details"][0]["reason"] == "NOT_FOUND"


async def test_what_json_cannot_mean_is_refused(mesh: SmallMesh) -> None:
    for method, target, body in (
        ("GET", "/v1/items/a?nope=1", None),
        ("POST", "/v1/items/a:change", b'{"note": '),
        ("POST", "/v1/items/a:change", {"note": ["list"]}),
        # The path says otherwise.
        ("POST", "/v1/items/a:change", {"name": "b"}),
    ):
        answer = await _ask(mesh, method, target, identity=OPERATOR, body=body)
        assert answer.status == 400, (target, body, answer)
    assert not mesh.apps["eu"].seen


async def test_a_json_body_has_a_size(mesh: SmallMesh) -> None:
    body = {"note": "a" * (5 * 1024 * 1024)}
    answer = await _ask(mesh, "POST", "/v1/items/a:change", identity=OPERATOR, body=body)
    assert answer.status == 413
    assert not mesh.apps["eu"].seen


async def test_what_no_role_may_call_is_out_of_reach_on_every_way(
    mesh: SmallMesh, issuer: Issuer
) -> None:
    for target in ("/v1/echo", path("Echo"), "/v1/nothing"):
        for identity, token in ((OPERATOR, ""), (None, issuer.token("ann"))):
            answer = await _ask(mesh, "GET", target, identity=identity, token=token)
            assert answer.status == 403, target
    denied = await _web(mesh, "Echo", token=issuer.token("ann"))
    assert denied.headers["grpc-status"] == str(grpc.StatusCode.PERMISSION_DENIED.value[0])
    assert not mesh.apps["eu"].seen


async def test_a_token_never_opens_what_is_for_devices(mesh: SmallMesh, issuer: Issuer) -> None:
    for subject in ("ann", DEVICE.device_id):
        answer = await _ask(
            mesh, "POST", "/v1/reports", token=issuer.token(subject), body={"note": "a"}
        )
        assert answer.status == 403
    answer = await _ask(mesh, "POST", "/v1/reports", identity=DEVICE, body={"note": "a"})
    assert _caller(answer).kind == "device"
    # Nor does a certificate of one become an operator's by a token.
    for identity in (DEVICE, WorkloadId(DOMAIN, "eu", "alpha")):
        answer = await _ask(
            mesh, "GET", "/v1/items/a", identity=identity, token=issuer.token("ann")
        )
        assert answer.status == 403
    both = await _ask(mesh, "GET", "/v1/items/a", identity=OPERATOR, token=issuer.token("ann"))
    assert _caller(both).name == "first"


async def test_nobody_claims_to_be_somebody(mesh: SmallMesh, issuer: Issuer) -> None:
    claims = {
        "x-forwarded-client-cert": f"URI={OPERATOR.uri}",
        "x-envoy-original-path": path("Operate"),
        "x-isthmus-principal": OPERATOR.uri,
    }
    assert (await _ask(mesh, "GET", "/v1/items/a", headers=claims)).status == 403
    answer = await _ask(mesh, "GET", "/v1/items/a", token=issuer.token("ann"), headers=claims)
    assert _caller(answer).name == "ann"
    assert OPERATOR.uri not in answer.body.decode()


async def test_a_token_makes_an_operator_by_the_claim_that_is_named(
    tmp_path: Path, issuer: Issuer
) -> None:
    (tmp_path / "keys.json").write_text(issuer.key_set())
    access = (
        f"edge: {{jwt: {{issuer: {ISSUER}, audience: {AUDIENCE}, keys: keys.json, "
        "operators: {claim: [realm, groups], values: [live, night]}}}"
    )

    def of(groups: Any) -> str:
        return issuer.token("ann", claims={"realm": {"groups": groups}, "groups": ["live"]})

    async with _mesh(tmp_path, access) as mesh:
        for groups in (["live"], ["x", "night"], "live"):
            answer = await _ask(mesh, "GET", "/v1/items/a", token=of(groups))
            assert _caller(answer).name == "ann", groups
        for groups in (["lives"], ["x"], [], "", "liv", {"live": "live"}, [["live"]], True, None):
            answer = await _ask(mesh, "GET", "/v1/items/a", token=of(groups))
            assert answer.status == 403, (groups, answer)
        for token in (issuer.token("ann"), issuer.token("ann", claims={"realm": "live"})):
            assert (await _ask(mesh, "GET", "/v1/items/a", token=token)).status == 403
        denied = await _web(mesh, "Operate", token=of(["x"]))
        assert denied.headers["grpc-status"] == "7"
        # Who shows a certificate is whom that names.
        both = await _ask(mesh, "GET", "/v1/items/a", identity=OPERATOR, token=of(["x"]))
        assert _caller(both).name == "first"
        assert mesh.apps["eu"].seen == {"Operate": 4}


async def test_bad_tokens_are_unauthenticated(mesh: SmallMesh, issuer: Issuer) -> None:
    now = datetime.now(UTC)
    unsigned = issuer.token("ann").split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    bad = {
        "expired": (issuer.token("ann", expires=now - timedelta(minutes=5)), "expired"),
        "not yet": (issuer.token("ann", not_before=now + timedelta(minutes=5)), "not yet"),
        "for ever": (issuer.token("ann", expires=None), ""),
        "too long": (issuer.token("ann", expires=now + timedelta(days=30)), ""),
        "another audience": (issuer.token("ann", audience="other"), "Audiences"),
        "another issuer": (issuer.token("ann", issuer="https://evil.example"), "issuer"),
        "another key": (Issuer(ec.generate_private_key(ec.SECP256R1())).token("ann"), "verif"),
        "no signature": (f"{unsigned[0]}.{unsigned[1]}.", ""),
        "alg none": (f"{none}.{unsigned[1]}.", ""),
        "public key as a secret": (issuer.confused("ann"), ""),
        "no token": ("abc", "Jwt"),
        "no subject": (issuer.token(None), ""),
        "a subject with a slash": (issuer.token("a/../b"), ""),
        "a subject with another element": (issuer.token(f"a,URI={OPERATOR.uri}"), ""),
        "an empty subject": (issuer.token(""), ""),
    }
    for what, (token, said) in bad.items():
        answer = await _ask(mesh, "GET", "/v1/items/a", token=token)
        # A good token of somebody else's is 403, what is no good token 401.
        others = "audience" in what or "subject" in what
        assert answer.status in ((401, 403) if others else (401,)), (what, answer)
        assert said.lower() in answer.body.decode().lower(), (what, answer)
        metadata = {"authorization": f"Bearer {token}"}
        channel = mesh.direct(mesh.topology.edge("eu"), None, "edge.eu.mesh.test")
        code, _ = await status_of(call(channel, "Operate", metadata))
        assert code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED), what
    # In the address it would stand in logs.
    answer = await _ask(mesh, "GET", f"/v1/items/a?access_token={issuer.token('ann')}")
    assert answer.status in (400, 403)
    assert not mesh.apps["eu"].seen


async def test_grpc_with_a_token(mesh: SmallMesh, issuer: Issuer) -> None:
    channel = mesh.direct(mesh.topology.edge("eu"), None, "edge.eu.mesh.test")
    good = {"authorization": f"Bearer {issuer.token('ann')}"}
    answer = await channel.unary_unary(path("Operate"))(b"", metadata=tuple(good.items()))
    assert from_header(Text.FromString(answer).note, DOMAIN).name == "ann"
    assert (await status_of(call(channel, "Operate")))[0] == grpc.StatusCode.PERMISSION_DENIED
    assert (await status_of(call(channel, "Report", good)))[0] == grpc.StatusCode.PERMISSION_DENIED


async def test_a_page_that_is_named_calls_by_grpc_web(mesh: SmallMesh, issuer: Issuer) -> None:
    preflight = await _preflight(mesh, ORIGIN)
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    answer = await _web(mesh, "Operate", origin=ORIGIN, token=issuer.token("ann"))
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "grpc-status" in answer.headers["access-control-expose-headers"]
    message, trailers = _frames(answer.body)
    assert b"/operator/ann" in message
    assert "grpc-status:0" in trailers


async def test_a_page_that_is_not_named_does_nothing(mesh: SmallMesh, issuer: Issuer) -> None:
    for other in ("https://evil.example", f"{ORIGIN}.evil.example", "null", "http://localhost"):
        preflight = await _preflight(mesh, other)
        assert preflight.status == 403
        assert "access-control-allow-origin" not in preflight.headers
        # What browsers send without asking first, with the certificate of who reads the page.
        for content in ("text/plain", "application/x-www-form-urlencoded"):
            answer = await _ask(
                mesh,
                "POST",
                "/v1/items/a:change",
                identity=OPERATOR,
                headers={"origin": other, "content-type": content},
                body=b'{"note": "b"}',
            )
            assert answer.status == 403
            assert "edge.origins" in answer.body.decode()
        web = await _web(mesh, "Operate", origin=other, token=issuer.token("ann"))
        assert web.headers["grpc-status"] == str(grpc.StatusCode.PERMISSION_DENIED.value[0])
    assert not mesh.apps["eu"].seen


@pytest.mark.parametrize("headers", [{}, {"origin": "https://evil.example"}])
@pytest.mark.parametrize("content", ["application/json", "application/grpc"])
async def test_who_is_refused_is_refused_before_the_body(
    mesh: SmallMesh, headers: dict[str, str], content: str
) -> None:
    """Or strangers could hold an edge with requests that never end."""
    async with connected(mesh) as connection:
        target = "/v1/items/a:change" if content == "application/json" else path("Change")
        lines = [f"POST {target} HTTP/1.1", "host: edge", "content-length: 1000"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        sent = "\r\n".join([*lines, f"content-type: {content}", "", '{"note": "b'])
        connection.writer.write(sent.encode())
        answer = await connection.answer()
        if content == "application/grpc":
            denied = grpc.StatusCode.PERMISSION_DENIED.value[0]
            assert answer.headers["grpc-status"] == str(denied)
        else:
            assert answer.status == 403
    assert not mesh.apps["eu"].seen


async def test_a_mesh_that_says_nothing_is_for_certificates_alone(
    closed: SmallMesh, issuer: Issuer
) -> None:
    with pytest.raises((EOFError, OSError)):
        await _ask(closed, "GET", "/v1/items/a", token=issuer.token("ann"))
    answer = await _ask(closed, "GET", "/v1/items/a", identity=OPERATOR, headers={"origin": ORIGIN})
    assert answer.status == 403
    assert _caller(await _ask(closed, "GET", "/v1/items/a", identity=OPERATOR)).name == "first"
    code, _ = await status_of(
        call(closed.direct(closed.topology.edge("eu"), None, "edge.eu.mesh.test"), "Operate")
    )
    assert code == grpc.StatusCode.UNAVAILABLE


async def _preflight(mesh: SmallMesh, origin: str) -> Answer:
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-grpc-web",
    }
    return await _ask(mesh, "OPTIONS", path("Operate"), headers=asked)


async def _web(mesh: SmallMesh, method: str, *, token: str, origin: str = "") -> Answer:
    """A call as a browser frames it (gRPC-Web)."""
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    if origin:
        headers["origin"] = origin
    frame = b"\0" + (0).to_bytes(4, "big")
    return await _ask(mesh, "POST", path(method), token=token, headers=headers, body=frame)


def _frames(body: bytes) -> tuple[bytes, str]:
    """The message and the trailers of an answer by gRPC-Web."""
    message, trailers = b"", ""
    while body:
        size = int.from_bytes(body[1:5], "big")
        if body[0] & 0x80:
            trailers += body[5 : 5 + size].decode()
        else:
            message += body[5 : 5 + size]
        body = body[5 + size :]
    return message, trailers
