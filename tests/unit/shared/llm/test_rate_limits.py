"""What providers say about their quotas, from the headers of a reply to whoever made the call."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import httpx2
import openai
import pytest

from shared.llm.client import make_client
from shared.llm.rate_limits import RateLimits, read, seen
from tests.support.builders import a_deployment


def said(**headers: str) -> RateLimits:
    limits = RateLimits()
    limits.read({f"x-ratelimit-{name.replace('_', '-')}": value for name, value in headers.items()})
    return limits


@pytest.mark.parametrize(
    ("span", "seconds"),
    [("120ms", 0.12), ("1.5s", 1.5), ("6m0s", 360), ("1h2m3s", 3723), ("59", 59), ("1m", 60), ("1s500ms", 1.5)],
)
def test_what_is_used_up_is_back_after_the_reset(span: str, seconds: float) -> None:
    assert said(remaining_tokens="0", reset_tokens=span).back_after == pytest.approx(seconds)
    assert said(remaining_tokens="7", reset_tokens=span).back_after is None
    assert said(remaining_tokens="0", remaining_requests="0", reset_tokens="1s", reset_requests="90s").back_after == 90


@pytest.mark.parametrize(
    "nonsense",
    ["", "soon", "-1", "nan", "inf", "1e999", "s", "1..2s", "2026-11-28T09:00:00Z"],
)
def test_nonsense_is_not_said(nonsense: str) -> None:
    limits = said(limit_tokens=nonsense, remaining_tokens=nonsense, remaining_requests="0", reset_requests=nonsense)
    assert limits == RateLimits(remaining_requests=0)


@pytest.mark.parametrize("date", ["1790000000", "1790000000000", "500h"])
def test_a_date_as_a_number_is_no_span_of_time(date: str) -> None:
    assert said(remaining_tokens="0", reset_tokens=date).back_after is None


def test_a_limit_of_nothing_is_no_limit() -> None:
    assert said(limit_tokens="0", limit_requests="0").limit_tokens is None


@pytest.mark.parametrize("status", [200, 429])
async def test_the_headers_of_a_call_reach_who_made_it(status: int) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        headers = {"x-ratelimit-limit-tokens": "6000", "x-ratelimit-remaining-tokens": "5000"}
        return httpx2.Response(status, json={}, headers=headers)

    client = make_client(
        a_deployment("d", 4000), timeout=timedelta(seconds=60), transport=httpx2.MockTransport(answer), environment={}
    )
    with seen() as limits, suppress(openai.APIStatusError):
        await asyncio.create_task(client.post("/chat/completions", body={}, cast_to=httpx2.Response))
    assert (limits.limit_tokens, limits.remaining_tokens) == (6000, 5000)
    await client.close()


async def test_calls_at_once_do_not_see_each_other() -> None:
    async def call(remaining: str) -> float | None:
        with seen() as limits:
            await asyncio.sleep(0)
            read({"x-ratelimit-remaining-tokens": remaining})
            await asyncio.sleep(0)
            return limits.remaining_tokens

    one, other = await asyncio.gather(call("1"), call("2"))
    assert (one, other) == (1, 2)
    read({"x-ratelimit-remaining-tokens": "3"})  # a call that nobody paces
