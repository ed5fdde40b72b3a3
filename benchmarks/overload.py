"""What is left under overload, and of one tenant beside another: `python -m benchmarks.overload [--quick]`.

The whole system with a model that takes 3 s, one generator with 16 slots, and two tenants as plain SDK or HTTP callers
with deadlines of 30 s. Capacity is slots / latency. Tables: answers in every 10 s, what was paid and thrown away, and
how long a quiet tenant waits alone and beside a noisy one.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import yaml
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from local.stack import Stack
from local.stack.stack import EXAMPLE
from shared.access.callers import hash_key

SLOTS, LATENCY, WITHIN = 16, 3.0, 30.0
WINDOW = 10.0
# Seconds; a session's lock ends after a minute.
RENEW = 15.0
QUESTION = "How many days of annual leave does a new employee in Portugal receive?"
TENANTS = ("noisy", "quiet")
DOCUMENT = "leave-policy.pdf"


@dataclass
class Ask:
    """One request; moments are seconds since the run began."""

    sent: float
    ended: float = 0.0
    outcome: str = "nothing"
    code: str = ""

    @property
    def took(self) -> float:
        """Seconds from sending to the outcome."""
        return self.ended - self.sent


@dataclass
class App:
    """An upstream app of one tenant: its own ingress and reply queue, or a key for HTTP."""

    name: str
    bus: ServiceBusClient
    http: httpx.AsyncClient
    began: float = field(default_factory=time.monotonic)
    asks: dict[str, Ask] = field(default_factory=dict)

    async def offer(self, rate: float, seconds: float, post: "Callable[[str], Awaitable[None]]") -> None:
        """Ask `rate` times a second."""
        posting = set()
        until, due = time.monotonic() + seconds, time.monotonic()
        while due < until:
            await asyncio.sleep(due - time.monotonic())
            key = uuid.uuid4().hex
            self.asks[key] = Ask(time.monotonic() - self.began)
            posting.add(task := asyncio.create_task(_as_coroutine(post(key))))
            task.add_done_callback(posting.discard)
            due += 1 / rate
        await asyncio.gather(*posting)

    @asynccontextmanager
    async def by_queue(self, use_case: str = "onboarding") -> AsyncIterator[Callable[[str], Awaitable[None]]]:
        """Post to the ingress queue and collect outcomes from one session of the reply queue."""
        session, lock = uuid.uuid4().hex, asyncio.Lock()
        sender = self.bus.get_queue_sender(f"ask-{self.name}")
        receiver = self.bus.get_queue_receiver(f"answers-{self.name}", session_id=session)

        async def post(key: str) -> None:
            message = ServiceBusMessage(
                _body(use_case),
                message_id=key,
                subject="ask.v1",
                reply_to_session_id=session,
                time_to_live=timedelta(seconds=WITHIN),
            )
            async with lock:
                await sender.send_messages(message)

        async def collect() -> None:
            renewed = time.monotonic()
            while True:
                if time.monotonic() - renewed > RENEW:
                    await receiver.session.renew_lock()
                    renewed = time.monotonic()
                for message in await receiver.receive_messages(max_message_count=20, max_wait_time=0.5):
                    body = json.loads(str(message))
                    self._ended(str(message.correlation_id), body["outcome"], body["code"])
                    await receiver.complete_message(message)

        async with sender, receiver:
            collecting = asyncio.create_task(collect())
            try:
                yield post
                await self._quiet()
            finally:
                collecting.cancel()
                with suppress(asyncio.CancelledError):
                    await collecting

    async def by_http(self, key: str) -> None:
        """Post over HTTP, waiting for the outcome."""
        url = f"/v1/onboarding/ask?wait={WITHIN}&deadline={WITHIN}"
        body = {"question": QUESTION, "cache": "refresh"}
        response = await self.http.post(url, json=body, headers={"Authorization": f"Bearer key-{self.name}"})
        said = response.json()
        self._ended(key, said.get("outcome", f"HTTP {response.status_code}"), said.get("code", ""))

    async def _quiet(self) -> None:
        """Until every ask has its outcome, or should have had it."""
        until = time.monotonic() + WITHIN + 20
        while time.monotonic() < until and any(not ask.ended for ask in self.asks.values()):
            await asyncio.sleep(0.2)

    def _ended(self, key: str, outcome: str, code: str) -> None:
        if ask := self.asks.get(key):
            ask.ended, ask.outcome, ask.code = time.monotonic() - self.began, outcome, code


@dataclass
class Bench:
    """A running system."""

    stack: Stack
    bus: ServiceBusClient
    http: httpx.AsyncClient
    llm: httpx.AsyncClient

    def app(self, name: str) -> App:
        """A new app of a tenant."""
        return App(name, self.bus, self.http)

    async def model(self, *faults: dict[str, Any]) -> None:
        """Make the model slow, and forget its calls."""
        (await self.llm.post("/control/faults", json=list(faults))).raise_for_status()

    async def calls(self) -> int:
        """Chat calls that were paid so far."""
        found = (await self.llm.get("/control/calls")).json()
        return sum(call["kind"] == "chat" and call["status"] in (200, None) for call in found)


@asynccontextmanager
async def running(generators: int = 1) -> AsyncIterator[Bench]:
    """The system with two tenants and their documents."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config"
        shutil.copytree(EXAMPLE, config)
        _configure(config)
        stack = Stack(
            Path(folder) / "stack",
            ports="free",
            config=config,
            documents=config.parent / "documents",
            workers={"generator": generators},
            settings={"*": {"RAGBUS_LOG_LEVEL": "warning", "RAGBUS_REDIS_TIMEOUT": "1"}},
        )
        limits = httpx.Limits(max_connections=None)
        async with (
            stack,
            ServiceBusClient.from_connection_string(stack.connection_string) as bus,
            httpx.AsyncClient(base_url=stack.gateway_url, timeout=120, limits=limits) as http,
            httpx.AsyncClient(base_url=stack.llm_url, timeout=60) as llm,
        ):
            bench = Bench(stack, bus, http, llm)
            for tenant in TENANTS:
                while (await _one(bench.app(tenant))).outcome != "answered":
                    await asyncio.sleep(0.5)
            yield bench


async def goodput(bench: Bench, factor: float, seconds: float, way: str) -> dict[str, Any]:
    """Offer `factor` times the capacity for `seconds`, then 0.8 times for as long as a deadline."""
    await bench.model({"kind": "chat", "latency": LATENCY})
    before, app, capacity = await bench.calls(), bench.app("noisy"), SLOTS / LATENCY
    await _offer(app, [(factor * capacity, seconds)], way)
    asks = list(app.asks.values())
    answered = [ask for ask in asks if ask.outcome == "answered"]
    paid = await bench.calls() - before
    windows = [
        sum(start <= ask.ended < start + WINDOW for ask in answered) / (capacity * WINDOW)
        for start in (number * WINDOW for number in range(int(seconds / WINDOW)))
    ]
    print(f"\n{factor} x capacity for {seconds:.0f} s by {way}: {len(asks)} asks, {dict(_ends(asks))}")
    print("  answered per 10 s, % of capacity:", " ".join(f"{window:.0%}" for window in windows))
    print(f"  paid calls {paid}, wasted {paid - len(answered)} ({(paid - len(answered)) / max(1, paid):.1%})")
    refused = [ask.took for ask in asks if ask.code == "Overloaded"]
    if refused:
        print(f"  told Overloaded after {statistics.median(refused):.1f} s (median), {max(refused):.1f} s (max)")
    before = await bench.calls()
    after = bench.app("noisy")
    await _offer(after, [(0.8 * capacity, 15)], way)
    print(f"  right after, at 0.8 x: {dict(_ends(after.asks.values()))}")
    return {"windows": [round(window, 3) for window in windows], "wasted": paid - len(answered), "paid": paid}


async def beside(bench: Bench, name: str, noise: Callable[[App], Awaitable[None]], rate: float, seconds: float) -> None:
    """A quiet tenant alone, and beside what `noise` does."""
    alone, quiet, noisy = bench.app("quiet"), bench.app("quiet"), bench.app("noisy")
    await _offer(alone, [(rate, min(seconds, 20))], "queue")
    making = asyncio.create_task(_as_coroutine(noise(noisy)))
    await asyncio.sleep(min(5, seconds / 4))
    await _offer(quiet, [(rate, seconds)], "queue")
    await making
    a, b = ([ask.took for ask in app.asks.values() if ask.outcome == "answered"] for app in (alone, quiet))
    print(
        f"\nquiet tenant beside {name}: {dict(_ends(quiet.asks.values()))}; noisy: {dict(_ends(noisy.asks.values()))}"
    )
    print(f"  alone p50 {_p(a, 50):.2f} p95 {_p(a, 95):.2f} s; beside p50 {_p(b, 50):.2f} p95 {_p(b, 95):.2f} s: "
          f"{_p(b, 95) / _p(a, 95):.1f} x")  # fmt: skip


async def _offer(app: App, phases: list[tuple[float, float]], way: str) -> None:
    if way == "http":
        for rate, seconds in phases:
            await app.offer(rate, seconds, app.by_http)
        return
    async with app.by_queue() as post:
        app.began = time.monotonic()
        for rate, seconds in phases:
            await app.offer(rate, seconds, post)


async def _burst(app: App, number: int, use_case: str = "onboarding") -> None:
    async with app.by_queue(use_case) as post:
        await app.offer(number / 2, 2, post)


async def _one(app: App) -> Ask:
    async with app.by_queue() as post:
        await app.offer(1, 0.5, post)
    [ask] = app.asks.values()
    return ask


async def measure(quick: bool, only: str) -> None:
    """All tables."""
    seconds = 30.0 if quick else 60.0
    capacity = SLOTS / LATENCY
    async with running() as bench:
        if only in ("", "goodput"):
            for factor, way in ((1.2, "queue"), (3.0, "queue"), (3.0, "http")):
                await goodput(bench, factor, seconds, way)
        if only in ("", "fair"):
            await bench.model({"kind": "chat", "latency": LATENCY})
            rate = 2.7 * capacity
            saturation = lambda app: _offer(app, [(rate, seconds + 5)], "queue")  # noqa: E731
            await beside(bench, f"one at {rate:.0f}/s, 9 x its traffic", saturation, rate / 9, seconds)
        if only in ("", "slow"):
            await bench.model({"deployment": "onboarding-4k-north", "kind": "chat", "latency": 15})
            await beside(bench, "96 asks whose calls take 15 s", lambda app: _burst(app, 96, "slow"), 1, seconds)
        if only in ("", "burst"):
            await bench.model()
            await beside(bench, "1,500 quick asks", lambda app: _burst(app, 1500), 1, seconds / 2)


def _configure(config: Path) -> None:
    callers = [
        {
            "name": f"{tenant}-app",
            "tenant": tenant,
            "groups": ["employees"],
            "use_cases": ["onboarding", "slow"],
            "queue": f"ask-{tenant}",
            "reply_queues": [f"answers-{tenant}"],
            "api_keys": [hash_key(f"key-{tenant}")],
        }
        for tenant in TENANTS
    ]
    tenants = {tenant: {"tokens_per_minute": 500_000_000} for tenant in TENANTS}
    (config / "callers.yaml").write_text(yaml.safe_dump({"tenants": tenants, "callers": callers}), "utf-8")
    use_case = yaml.safe_load((config / "use_cases" / "onboarding.yaml").read_text("utf-8"))
    for name, deployment in (("onboarding", "onboarding-4k"), ("slow", "onboarding-4k-north")):
        changed = {**use_case, "name": name, "deployments": [deployment], "cache": {"ttl": 0}}
        (config / "use_cases" / f"{name}.yaml").write_text(yaml.safe_dump(changed), "utf-8")
    sources = [
        {
            "container": "handbook",
            "prefix": f"{tenant}/",
            "tenant": tenant,
            "collection": "handbook",
            "groups": ["employees"],
        }
        for tenant in TENANTS
    ]
    (config / "sources.yaml").write_text(yaml.safe_dump({"sources": sources}), "utf-8")
    for tenant in TENANTS:
        (config.parent / "documents" / tenant).mkdir(parents=True)
        shutil.copy(EXAMPLE / "handbook" / DOCUMENT, config.parent / "documents" / tenant)


def _body(use_case: str) -> str:
    return json.dumps({"question": QUESTION, "use_case": use_case, "cache": "refresh"})


def _ends(asks: Any) -> Counter[str]:
    return Counter(ask.code if ask.outcome == "refused" else ask.outcome if ask.code != "Overloaded" else "HTTP 429/503"
                   for ask in asks)  # fmt: skip


def _p(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)] if values else float("nan")


async def _as_coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="half as long")
    parser.add_argument("--only", default="", choices=["goodput", "fair", "slow", "burst"], help="one table")
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(measure(given.quick, given.only))
    print(f"python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
