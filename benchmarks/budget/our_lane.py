"""The load of `benchmarks.budget` on ragbus' budget: admission, a call, settlement."""

import asyncio
import json
import resource
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta

from shared.budget.price import amount
from shared.budget.tenant import TenantBudget
from shared.contracts.outcome import ModelCall
from shared.contracts.request import ReplyTo, Request
from shared.llm.deployments import Price
from shared.redis import FailFastRedis
from shared.settings.budget import MICROS, TENANT, Limit, Unit, Window

PRICE = Price(input=100, output=200)  # USD per million tokens, as in the other lane
PROMPT, CAP, ANSWER = 48, 60, 22


async def main(redis_port: str, callers: int, asks: int, limit: float, seconds: float) -> None:
    """Ask `asks` times by each of `callers`; prints calls, refusals, USD and CPU seconds as JSON."""
    limits = [Limit(TENANT, Unit.USD, Window.DAY, round(limit * MICROS))]
    redis = FailFastRedis(f"redis://127.0.0.1:{redis_port}/0", timeout=30)
    budget = TenantBudget(redis, lambda _request: limits, lambda: datetime.now(UTC))
    made, refused, spent = 0, 0, 0
    began, at = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    used, worst = amount(PRICE, PROMPT, ANSWER), amount(PRICE, PROMPT, CAP)

    async def caller() -> None:
        nonlocal made, refused, spent
        for _ in range(asks):
            request, name = a_request(), uuid.uuid4().hex
            if (await budget.reserve(request, used)).refusal is not None or (
                await budget.begin(request, name, worst, timedelta(seconds=30))
            ) is not None:
                refused += 1
                continue
            await asyncio.sleep(seconds)
            call = ModelCall(deployment="d", prompt_tokens=PROMPT, completion_tokens=ANSWER, cost=used.usd / MICROS)
            await budget.settle(request, name, call, used)
            made, spent = made + 1, spent + used.usd

    await asyncio.gather(*(caller() for _ in range(callers)))
    ended = resource.getrusage(resource.RUSAGE_SELF)
    cpu = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    wall = time.perf_counter() - at
    await redis.close()
    print(json.dumps({"made": made, "refused": refused, "usd": spent / MICROS, "cpu": cpu, "wall": wall}))


def a_request() -> Request:
    """A request of the one tenant."""
    now = datetime.now(UTC)
    return Request(
        request_id=uuid.uuid4().hex,
        tenant="t",
        caller="c",
        groups=(),
        use_case="u",
        question="How many days of annual leave do I get?",
        accepted_at=now,
        answer_by=now + timedelta(seconds=60),
        correlation_id="c",
        reply_to=ReplyTo(queue="q", session="s"),
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])))
