"""Every script that the workers run is run here on a real Redis, and each one's keys share a hash slot."""

import ast
import importlib
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from ops.commands.budget import ask
from shared.answer_cache import AnswerCache, CachePartition
from shared.budget.scripts import CHANGE, SHOW
from shared.contracts.outcome import Citation, Code, Outcome, ending
from shared.flow.tickets import Tickets
from shared.ledger.ledger import Ledger
from shared.llm.errors import Throttled
from shared.pacing.pacing import Demand, Pacing
from shared.redis import FailFastRedis
from shared.worker.shared_breaker import SharedBreaker
from tests.support.budget import a_budget, hold, spend
from tests.support.builders import NOW, a_deployment, a_request

ROOT = Path(__file__).parents[2]
# Those that are kept apart on purpose, by what stands in the braces: a tenant, a tenant's collection, a request.
PATTERNS = {
    "shared.budget.tenant": "ragbus:{…}:",
    "ops.commands.budget": "ragbus:{…}:",
    "shared.answer_cache": "ragbus:{…}:",
    "shared.flow.tickets": "ragbus:{flow}:",
    "shared.pacing.pacing": "ragbus:{…}:",
    "shared.ledger.ledger": "ragbus:request:{…}",
    "shared.worker.shared_breaker": "ragbus:breaker:",
}


class Recording(FailFastRedis):
    """Remembers the keys of every script."""

    def __init__(self, url: str) -> None:
        super().__init__(url, timeout=60)
        self.keys: dict[str, list[list[str]]] = defaultdict(list)

    async def script(self, source: str, keys: list[str], args: list[Any]) -> Any:
        self.keys[source].append(keys)
        return await super().script(source, keys, args)


def scripts() -> dict[str, str]:
    """Source by `module:name` of every script that is run anywhere in the tree."""
    found = {}
    for path in (path for folder in ("shared", "services", "ops") for path in sorted((ROOT / folder).rglob("*.py"))):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            match call:
                case ast.Call(func=ast.Attribute(attr="script"), args=[ast.Name(id=name), _, _]) if name.isupper():
                    found[f"{module}:{name}"] = str(getattr(importlib.import_module(module), name))
    return found


async def everything(redis: FailFastRedis, tenant: str) -> None:
    """Whatever workers do with Redis by a script, for a tenant with that name."""
    request = a_request(tenant=tenant)
    citations = tuple(
        Citation(marker=n, path=f"{n}.md", version=1, title="t", start=0, end=1, quote="q", score=1) for n in (1, 2)
    )
    answer = ending(request, Outcome.ANSWERED, Code.OK, text="x", citations=citations)
    ledger = Ledger(redis)
    await ledger.unread(a_request(tenant=tenant, request_id="r0"), answer)
    await ledger.bind(request, "token", NOW)
    await ledger.accept(request)
    await ledger.decide(request, answer)
    await ledger.replace(request, answer)
    await ledger.mark_delivered(request)
    await ledger.store(answer, tenant, "caller")
    await ledger.cancel("r2", tenant, "caller")
    await ledger.forget(request, "token")
    budget = a_budget(redis, 1_000)
    await hold(budget, 10, tenant=tenant)
    await spend(budget, 10, tenant=tenant)
    await budget.give_back(request)
    await ask(redis, tenant, SHOW, {})
    await ask(redis, tenant, CHANGE, {"change": {}, "scopes": []})
    cache, partition = AnswerCache(redis), CachePartition(tenant, "handbook")
    await cache.store(partition, "key", answer, epoch=0, ttl=60)
    await cache.find(partition, "key")
    await cache.invalidate(tenant, "handbook", "1.md", 2)
    tickets = Tickets(redis)
    await tickets.announce("replica", 16)
    await tickets.take(tenant, [request], NOW)
    await tickets.release(request, answer)
    await tickets.announce("replica", 0)
    pacing, deployment = Pacing(redis), a_deployment(tenant, 4000, tokens_per_minute=1_000)
    async with pacing.turn(deployment, Demand(who="r1", tenant=tenant, tokens=10, due=NOW)):
        pass
    with suppress(Throttled):
        async with pacing.turn(deployment, Demand(who="r2", tenant=tenant, tokens=10, due=NOW)):
            raise Throttled("429")
    await pacing.room(deployment, 10)
    breaker = SharedBreaker(redis, "retrieve")
    for _ in range(breaker.rules.threshold):
        await breaker.failed("down")


@pytest.mark.parametrize("tenant", ["tessolund", "a}b{c", "{", "}", "tenant: with/marks"])
async def test_every_script_uses_one_slot(redis_url: str, tenant: str) -> None:
    redis = Recording(redis_url)
    await everything(redis, tenant)
    await redis.close()
    known = scripts()
    assert len(known) > 10
    assert [name for name, source in known.items() if source not in redis.keys] == [], "run them in `everything`"
    for name, source in known.items():
        start = PATTERNS[name.partition(":")[0]].partition("…")[0]
        for keys in redis.keys[source]:
            assert len({key_slot(key.encode()) for key in keys}) == 1, (name, keys)
            assert all(key.startswith(start) for key in keys), (name, keys)
