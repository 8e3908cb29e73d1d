"""What compiled sidecars cost a call, beside Envoys that only do mutual TLS, and none at all."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import grpc

from mesh.identity.enrolment import Credentials
from mesh.identity.spiffe import WorkloadId
from mesh.local.ports import claim_blocks
from mesh.topology import Address
from tests.bench.mesh import minimal
from tests.bench.rows import Row, row
from tests.e2e.sidecars import DOMAIN, SERVICE, App, SmallMesh, call, status_of

PAIRS = 40
CALLS = 100
"""In each half of a pair."""

_DRAWS = 10_000
_READY_SECONDS = 20.0
COMPILED, MINIMAL, NONE = "compiled sidecars", "minimal Envoys", "gRPC's own mTLS"


def measure(pairs: int = PAIRS) -> list[Row]:
    """Interleaved: in each pair the ways take turns, each other pair the other way round."""
    return rows(asyncio.run(_measure(pairs)))


def rows(samples: dict[str, list[float]]) -> list[Row]:
    """The medians of the pairs, their ratios, and how sure these are."""
    found = [row(f"unary call over mTLS, {way}, p50", samples[way], "ms") for way in samples]
    for other in (MINIMAL, NONE):
        ratios = [one / two for one, two in zip(samples[COMPILED], samples[other], strict=True)]
        low, high = interval(ratios)
        metric = f"unary call over mTLS, {COMPILED} / {other}, median of pairs, 95 % interval"
        found.append(Row(metric, median(ratios), "x", (low, high), len(ratios), other, None))
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of a median, by the percentile bootstrap (Efron 1979)."""
    chance = random.Random(7)  # noqa: S311 # repeatable on purpose
    medians = sorted(median(chance.choices(values, k=len(values))) for _ in range(_DRAWS))
    return medians[round(0.025 * _DRAWS)], medians[round(0.975 * _DRAWS) - 1]


async def _measure(pairs: int) -> dict[str, list[float]]:
    async with _ways() as ways:
        samples: dict[str, list[float]] = {way: [] for way in ways}
        for channel in ways.values():
            await _median(channel)  # connections, and warm code
        for number in range(pairs):
            for way in list(ways)[:: -1 if number % 2 else 1]:
                samples[way].append(await _median(ways[way]))
        return samples


async def _median(channel: grpc.aio.Channel) -> float:
    """Milliseconds of one caller's calls, one after the other."""
    taken = []
    for _ in range(CALLS):
        started = time.perf_counter()
        await call(channel, "Echo")
        taken.append((time.perf_counter() - started) * 1e3)
    return median(taken)


@asynccontextmanager
async def _ways() -> AsyncIterator[dict[str, grpc.aio.Channel]]:
    """Channels to one application, by way."""
    state, run = (Path(tempfile.mkdtemp(prefix=name)) for name in ("isthmus-", "ist-"))
    claim = claim_blocks(3)
    small = SmallMesh(state, run, list(claim.bases[:2]))
    envoys, server = [], None
    channels: dict[str, grpc.aio.Channel] = {}
    try:
        await small.start(("eu", "beta"), ("eu", "alpha"))
        alpha = small.credentials(WorkloadId(DOMAIN, "eu", "alpha"))
        beta = small.credentials(WorkloadId(DOMAIN, "eu", "beta"))
        app, front = small.apps["eu"], run / "minimal.sock"
        first, second = (Address("127.0.0.1", claim.bases[2] + at) for at in range(2))
        envoys.append(await minimal.called(run / "called", beta, first, app.socket))
        envoys.append(await minimal.calling(run / "calling", alpha, front, first))
        server = await _serving(app, beta, second)
        channels = {
            COMPILED: small.egress("eu", "alpha"),
            MINIMAL: grpc.aio.insecure_channel(f"unix:{front}"),
            NONE: _channel(alpha, second),
        }
        for channel in channels.values():
            await _until_it_answers(channel)
        yield channels
    finally:
        for channel in channels.values():
            await channel.close()
        if server is not None:
            await server.stop(None)
        for envoy in envoys:
            await envoy.kill()
        await small.close()
        shutil.rmtree(run)
        shutil.rmtree(state)
        claim.release()


async def _serving(app: App, held: Credentials, address: Address) -> grpc.aio.Server:
    """The same application with gRPC's own TLS before it."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, app.handlers()),)
    )
    credentials = grpc.ssl_server_credentials(
        [(held.key_pem, held.chain_pem)], held.trust_pem, require_client_auth=True
    )
    server.add_secure_port(str(address), credentials)
    await server.start()
    return server


def _channel(held: Credentials, address: Address) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(held.trust_pem, held.key_pem, held.chain_pem)
    options = [("grpc.ssl_target_name_override", WorkloadId(DOMAIN, "eu", "beta").dns_name)]
    return grpc.aio.secure_channel(str(address), credentials, options=options)


async def _until_it_answers(channel: grpc.aio.Channel) -> None:
    async with asyncio.timeout(_READY_SECONDS):
        while (await status_of(call(channel, "Echo")))[0] is not grpc.StatusCode.OK:
            await asyncio.sleep(0.1)
