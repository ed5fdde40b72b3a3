"""HTTP callers that wait for an outcome: what that costs."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from shared.contracts.outcome import Code, Outcome, ending
from shared.redis import FailFastRedis
from tests.support.builders import a_request
from tests.support.gateway import Gateway, Web

HEADERS = {"Authorization": "Bearer welcome-app"}


@pytest.fixture
async def web(redis: FailFastRedis) -> AsyncIterator[Web]:
    found = Web(Gateway(redis))
    yield found
    await found.client.aclose()


async def reads(redis: FailFastRedis) -> int:
    """How often the ledger was read so far."""
    found = await redis.run(lambda client: client.info("commandstats"))
    return int(found.get("cmdstat_hmget", {}).get("calls", 0))


def waiting(web: Web, request: str, number: int, wait: float) -> list["asyncio.Task[httpx.Response]"]:
    url = f"/v1/requests/{request}?wait={wait}"
    return [asyncio.create_task(web.client.get(url, headers=HEADERS)) for _ in range(number)]


async def test_many_waiting_callers_share_one_poll_of_the_ledger(web: Web, redis: FailFastRedis) -> None:
    request, number = await web.ask("k1"), 100
    before = await reads(redis)
    ended = await asyncio.gather(*waiting(web, request, number, wait=3))
    assert {response.status_code for response in ended} == {202}
    # Each looks once whether the request is there; waiting costs all of them together some ten looks.
    assert await reads(redis) - before < number + 40


async def test_an_outcome_stored_by_another_replica_reaches_all_waiting_callers(web: Web, redis: FailFastRedis) -> None:
    request = await web.ask("k1")
    waiters = waiting(web, request, 20, wait=60)
    await asyncio.sleep(0.2)
    gateway = Gateway(redis)
    mine = a_request(request_id=request)
    await gateway.ledger.decide(mine, ending(mine, Outcome.ANSWERED, Code.OK, text="24"))
    assert {response.json()["text"] for response in await asyncio.gather(*waiters)} == {"24"}
