"""Generated from the contract: what its options say of each method holds on each way to it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from mesh.contracts.model import Idempotency, Locality
from mesh.local.ports import claim_blocks
from tests.e2e.whole import (
    AGE,
    FEW,
    LIMIT,
    SOON,
    App,
    Way,
    Whole,
    at_once,
    dripping,
    silence,
    ways,
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
]

LOST = {"UNAVAILABLE", "INTERNAL", "CANCELLED", "UNKNOWN"}
"""How a broken connection looks like, before and after the first answer."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    claim = claim_blocks(2)
    short = Path(tempfile.mkdtemp(prefix="ist-"))
    made = Whole.of(tmp_path_factory.mktemp("whole"), short, list(claim.bases))
    try:
        await made.start()
        yield made
    finally:
        await made.close()
        shutil.rmtree(short)
        claim.release()


def breaking(how: str, *, answered: bool) -> Callable[[App, Any], AsyncIterator[bytes]]:
    """A service that reads a request, answers perhaps, and whose connections break then."""

    async def behave(app: App, context: Any) -> AsyncIterator[bytes]:
        if answered:
            yield b""
        if how == "unavailable":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "as asked")
        await asyncio.sleep(0.02 if answered else 0)  # the answer is on its way
        for each in app.whole.between if how == "between" else app.whole.behind:
            each.reset()
        await asyncio.Event().wait()

    return behave


def attempts(way: Way, *, answered: bool = False) -> int:
    """How often a service may see one call."""
    retry = way.method.retry
    return retry.attempts if retry and not answered else 1


@pytest.mark.proves("idempotency_level", "MethodContract.retry", "Retry.attempts")
@pytest.mark.parametrize("how", ["between", "behind", "unavailable"])
@pytest.mark.parametrize("answered", [False, True], ids=["", "midway"])
async def test_a_call_is_sent_as_often_as_the_contract_says_and_no_more(
    whole: Whole, how: str, answered: bool
) -> None:
    """Once, unless the method is idempotent and says how often, whatever breaks and where."""
    whole.behave = breaking(how, answered=answered)
    wrong, away = [], 0
    for way in ways():
        if answered and not way.method.server_streaming:
            continue  # what has its answer is over
        if how == "between" and way.kind == "as unenrolled":
            continue  # there is no sidecar before it
        for _ in range(3):
            whole.forget()
            code, details, answers = await whole.call(way, within=10)
            if seen := sum(whole.seen(way).values()):
                break  # else it broke before it came: that is no case of what is to be shown
        if (seen, answers) != (attempts(way, answered=answered), answered) or code not in LOST:
            wrong.append(f"{way}: seen {seen} times, {answers} answers, {code} {details}")
        if seen > 1:
            away += whole.seen(way)["us"]
    assert not wrong, "\n" + "\n".join(wrong)
    assert away or answered  # what may go elsewhere is repeated there


async def test_there_is_something_to_show() -> None:
    """The contract has methods of each kind, or the tests here show nothing."""
    methods = [way.method for way in ways()]
    assert any(m.idempotency is Idempotency.UNKNOWN and not m.streaming for m in methods)
    assert any(m.idempotency is not Idempotency.UNKNOWN and not m.retry for m in methods)
    assert any(m.retry for m in methods) and any(m.stream_max_age for m in methods)
    assert {m.locality for m in methods} == set(Locality)
    assert all(m.idempotency is not Idempotency.UNKNOWN for m in methods if m.retry)


async def _opened(whole: Whole) -> None:
    """Connections that were broken are there again: to open one takes no part of a deadline."""
    whole.behave = at_once
    async with asyncio.timeout(60):
        await asyncio.gather(*(_answered(whole, way, within=10) for way in ways(SOON)))


async def _answered(whole: Whole, way: Way, within: float) -> None:
    """Calls until it is answered; each time `within` so many seconds."""
    while (await whole.call(way, within=within))[0] != "OK":
        await asyncio.sleep(0.1)


@pytest.mark.proves("MethodContract.timeout", "MethodContract.stream_max_age", "Retry.per_try")
async def test_a_deadline_is_deadline_exceeded_in_time(whole: Whole) -> None:
    """Whether the client set none or a longer one."""
    await _opened(whole)
    whole.behave = silence
    whole.forget()
    clock = asyncio.get_running_loop().time

    async def late(way: Way, within: float | None) -> str | None:
        method = way.method
        most = method.timeout or AGE
        # Who may try again gives up when the last attempt took too long.
        least = min(most, method.retry.attempts * method.retry.per_try) if method.retry else most
        began = clock()
        code, details, _ = await whole.call(way, within=within)
        took = clock() - began
        if code == "DEADLINE_EXCEEDED" and 0.9 * least < took < most + 5:
            return None
        return f"{way}: {code} {details} after {took:.2f} s of {most:.2f} s"

    calls = [(way, within) for way in ways(SOON) for within in (None, 60.0)]
    wrong = list(filter(None, await asyncio.gather(*(late(*each) for each in calls))))
    assert not wrong, "\n" + "\n".join(wrong)
    sent = Counter(way.method for way, _ in calls)
    seen = {way.method: sum(whole.seen(way).values()) for way, _ in calls}
    for method, often in sent.items():
        assert seen[method] <= often * (method.retry.attempts if method.retry else 1), method
    # An attempt that took too long was followed by another one.
    repeated = [method for method in sent if method.retry]
    assert sum(seen[method] for method in repeated) > sum(sent[method] for method in repeated)


@pytest.mark.proves("MethodContract.stream_max_age")
async def test_a_stream_that_answers_ends_at_its_greatest_age(whole: Whole) -> None:
    whole.behave = dripping
    clock = asyncio.get_running_loop().time
    streams = [way for way in ways(SOON) if way.method.server_streaming]
    began = clock()
    # Their headers are long sent, so all that is left is a reset, which gRPC calls INTERNAL.
    for way, (code, _, answers) in zip(
        streams, await asyncio.gather(*(whole.call(way) for way in streams)), strict=True
    ):
        assert code == "INTERNAL" and answers > 2, way
    assert 0.9 * AGE < clock() - began < AGE + 5


@pytest.mark.proves("MethodContract.rate_limit", "RateLimit.per_second", "RateLimit.burst")
async def test_who_calls_too_often_is_told_when_to_come_again(whole: Whole) -> None:
    whole.behave = at_once
    whole.forget()
    clock = asyncio.get_running_loop().time
    for way in ways(FEW):
        if way.kind == "as unenrolled":
            continue  # the listener as a whole has a limit
        before, began = sum(whole.seen(way).values()), clock()
        codes = [code for code, _, _ in await asyncio.gather(*(whole.call(way) for _ in range(8)))]
        seen = sum(whole.seen(way).values()) - before
        # Another way to the same method may have taken what there is at once.
        assert seen <= LIMIT.burst + LIMIT.per_second * (clock() - began), way
        assert codes.count("OK") == seen, way
        assert codes.count("RESOURCE_EXHAUSTED") == len(codes) - seen, (way, codes)
        assert before or seen >= LIMIT.burst, way


@pytest.mark.proves(
    *("MethodContract.locality", "Locality.LOCALITY_UNSPECIFIED", "Locality.LOCALITY_LOCAL"),
    *("Locality.LOCALITY_NEAREST", "Locality.LOCALITY_HOME", "Locality.LOCALITY_PINNED"),
)
async def test_a_call_goes_to_the_regions_that_its_locality_allows(whole: Whole) -> None:
    """To its own while that answers, and to another one then, or nowhere. Breaks the region."""
    whole.behave = at_once
    whole.forget()
    assert {(await whole.call(way))[0] for way in ways()} == {"OK"}
    assert not any(whole.seen(way)["us"] for way in ways())
    for (region, _), app in whole.apps.items():
        if region == "eu":
            await app.stop()

    async with asyncio.timeout(40):  # until us answers
        nearest = [way for way in ways() if way.method.locality is Locality.NEAREST]
        await asyncio.gather(*(_answered(whole, way, within=5) for way in nearest))
    # What a client that knows the home says in a header is the one way for it to leave.
    homes = [way for way in ways() if way.method.locality is Locality.HOME]
    for way in homes:
        assert (await whole.call(way, home="us"))[0] == "OK", way
    assert all(whole.seen(way)["us"] for way in nearest + homes)
    whole.forget()
    stay = [way for way in ways(SOON) if way.method.locality is not Locality.NEAREST]
    codes = [code for code, *_ in await asyncio.gather(*map(whole.call, stay))]
    assert set(codes) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}, codes
    assert not any(whole.seen(way)["us"] for way in stay)
