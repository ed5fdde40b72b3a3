"""How much of a model's quota is answered with at twice the quota: `python -m benchmarks.quota [--quick] [--seed 1]`.

Four generators, put together as in production, call a quota server over HTTP and share a real Redis. The server counts
as OpenAI does: the most that a call can use, when it arrives; refused calls count as requests, too, unless
`--refused-are-free`. What a queue does is simulated: an ask goes to any generator with a free slot, and what is
rescheduled or tried again comes back at its time. Two tenants ask, one of them much more than its share; at the end
many ask at once with one deadline.
"""

import argparse
import asyncio
import json
import platform
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean, pvariance
from typing import Any

import structlog
import yaml

from local.stack.redis import command
from services.generator.main import compose
from services.generator.settings import GeneratorSettings
from shared.contracts.generate import Candidate, GenerateAnswer
from shared.contracts.outcome import RequestOutcome
from shared.contracts.request import ReplyTo, Request
from shared.redis import FailFastRedis
from shared.telemetry.metrics import make
from shared.worker.ports import Ports
from shared.worker.retry import Reschedule, Retry, RetryPolicy, after_failure

REPLICAS, SLOTS, LATENCY, WITHIN = 4, 16, 3.0, 30.0
TOKENS_PER_MINUTE = 360_000
ANSWER = 400
TEXT = "New employees receive 21 days of annual leave per year. " + "They may take it from their first month on. " * 90
REPLY = "New employees receive 21 days of annual leave per year [1]."


@dataclass
class QuotaServer:
    """A chat model with a quota of tokens, as a bucket of one minute; it takes `LATENCY` for an answer."""

    refused_count: bool
    requests_per_minute: float
    level: float = TOKENS_PER_MINUTE
    requests: float = field(init=False)
    at: float = field(default_factory=time.monotonic)
    served: list[tuple[float, float]] = field(default_factory=list)
    """When each accepted call arrived, and its tokens."""
    refused: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.requests = self.requests_per_minute

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """The address of the running server."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                length = next(line for line in head.lower().splitlines() if line.startswith("content-length:"))
                body = json.loads(await reader.readexactly(int(length.partition(":")[2])))
                status, headers, reply = await self._answer(body)
                text = json.dumps(reply).encode()
                lines = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(text)}"]
                lines += [f"{name}: {value}" for name, value in headers.items()]
                writer.write("\r\n".join([*lines, "", ""]).encode() + text)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self, body: dict[str, Any]) -> tuple[int, dict[str, str], dict[str, Any]]:
        prompt = sum(len(message["content"]) for message in body["messages"]) // 4
        most = prompt + (body.get("max_tokens") or body.get("max_completion_tokens") or ANSWER)
        now = time.monotonic()
        passed, self.at = now - self.at, now
        self.level = min(TOKENS_PER_MINUTE, self.level + passed * TOKENS_PER_MINUTE / 60)
        self.requests = min(self.requests_per_minute, self.requests + passed * self.requests_per_minute / 60)
        wait = max((most - self.level) * 60 / TOKENS_PER_MINUTE, (1 - self.requests) * 60 / self.requests_per_minute)
        if wait > 0:
            self.refused.append(now)
            if self.refused_count:
                self.requests -= 1
            error = {"message": "Rate limit reached", "type": "tokens", "code": "rate_limit_exceeded"}
            return 429, {"retry-after-ms": f"{wait * 1000:.0f}", **self._headers()}, {"error": error}
        self.level -= most
        self.requests -= 1
        self.served.append((now, most))
        headers = self._headers()
        await asyncio.sleep(LATENCY)
        usage = {"prompt_tokens": prompt, "completion_tokens": 20, "total_tokens": prompt + 20}
        choice = {"index": 0, "message": {"role": "assistant", "content": REPLY}, "finish_reason": "stop"}
        return 200, headers, {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}

    def _headers(self) -> dict[str, str]:
        return {
            "x-ratelimit-limit-tokens": str(TOKENS_PER_MINUTE),
            "x-ratelimit-remaining-tokens": str(max(0, int(self.level))),
            "x-ratelimit-limit-requests": f"{self.requests_per_minute:.0f}",
            "x-ratelimit-remaining-requests": str(max(0, int(self.requests))),
        }


@dataclass
class Asked:
    """An ask and how it ended; moments are seconds of `time.monotonic`."""

    task: GenerateAnswer
    sent: float
    ended: float = 0.0
    code: str = ""
    deliveries: int = 0


@dataclass
class Queue:
    """Hands asks to generators, and back to them later."""

    handles: Sequence[Any]
    chance: random.Random
    asked: list[Asked] = field(default_factory=list)
    _running: set["asyncio.Task[None]"] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._slots = [asyncio.Semaphore(SLOTS) for _ in self.handles]

    def ask(self, tenant: str, within: float = WITHIN) -> None:
        """Put an ask on the queue."""
        asked = Asked(_task(tenant, f"{tenant}-{len(self.asked)}", within), time.monotonic())
        self.asked.append(asked)
        task = asyncio.create_task(self._work(asked))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def all_ended(self) -> None:
        """Until every ask has ended."""
        while self._running:
            await asyncio.wait(self._running)

    async def _work(self, asked: Asked) -> None:
        attempt = 1
        while True:
            replica = self.chance.randrange(len(self.handles))
            async with self._slots[replica]:
                asked.deliveries += 1
                try:
                    [envelope] = await self.handles[replica](asked.task, attempt)
                except Exception as failure:  # noqa: BLE001 - as the worker
                    now, deadline = datetime.now(UTC), asked.task.request.answer_by
                    decision = after_failure(
                        failure,
                        attempt=attempt,
                        now=now,
                        deadline=deadline,
                        policy=RetryPolicy(),
                        chance=self.chance.random(),
                    )
                else:
                    assert isinstance(envelope.message, RequestOutcome)
                    asked.code, asked.ended = str(envelope.message.code), time.monotonic()
                    return
            if not isinstance(decision, Retry | Reschedule):
                asked.code, asked.ended = f"dead letter: {decision.reason}", time.monotonic()
                return
            attempt += isinstance(decision, Retry)
            # A broker delivers scheduled messages a little late.
            await asyncio.sleep(max(0.0, (decision.at - now).total_seconds()) + self.chance.uniform(0.0, 0.2))


async def measure(seed: int, *, seconds: float, refused_count: bool) -> dict[str, Any]:
    """Twice the quota for `seconds` after a burst of a minute's worth, then a crowd with one deadline."""
    server = QuotaServer(refused_count, requests_per_minute=6 * TOKENS_PER_MINUTE / 1000)
    async with AsyncExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory()))
        url = await closing.enter_async_context(_redis(folder))
        address = await closing.enter_async_context(server.running())
        handles = []
        for _ in range(REPLICAS):
            redis = FailFastRedis(url, timeout=2.0)
            closing.push_async_callback(redis.close)
            settings = GeneratorSettings.model_validate(
                {"servicebus_connection_string": "unused", "config": _configured(folder / "config", address)}
            )
            service = await compose(settings, Ports(bus=None, redis=redis, metrics=make()))  # type: ignore[arg-type]
            handles.append(service.workers[0].consumer.handle)
            for close in service.closing:
                closing.push_async_callback(close)
        queue = Queue(handles, random.Random(seed))
        await _one(queue)
        tokens = server.served[0][1]
        rate = TOKENS_PER_MINUTE / 60 / tokens
        began, over = time.monotonic(), asyncio.Event()
        offering = asyncio.gather(
            _drain(server, queue), _offer(queue, "noisy", 1.7 * rate, over), _offer(queue, "quiet", 0.3 * rate, over)
        )
        await _until_drained(server)
        await asyncio.sleep(10)
        first = time.monotonic()
        await asyncio.sleep(seconds)
        last = time.monotonic()
        over.set()
        await offering
        await queue.all_ended()
        asked = [each for each in queue.asked if each.sent >= began]
        good = [each for each in asked if each.code == "Ok" and first <= each.ended < last]
        calls = [at for at, _ in server.served if first <= at < last]
        refused = [at for at in server.refused if first <= at < last]
        figures: dict[str, Any] = {
            "calls a second that the quota allows": round(rate, 2),
            "part of the quota that was answered with": len(good) * tokens / (TOKENS_PER_MINUTE * (last - first) / 60),
            "part of all calls that were refused (429)": len(refused) / (len(calls) + len(refused)),
            "calls in waves (variance / mean of seconds; 1: independent)": _waves(calls, first, last),
            "deliveries for each answer": fmean(each.deliveries for each in asked if each.code == "Ok"),
        }
        for tenant in ("noisy", "quiet"):
            his = Counter(each.code for each in asked if each.task.request.tenant == tenant)
            figures[f"{tenant}: ended as"] = dict(his.most_common())
        start, before, refused_before = time.monotonic(), len(server.served), len(server.refused)
        for _ in range(int(rate * 120)):
            queue.ask("noisy", 60.0)
        await queue.all_ended()
        crowd = [at for at, _ in server.served[before:]]
        figures["a crowd with one deadline: calls in waves"] = _waves(crowd, start + 15, start + 55)
        figures["a crowd with one deadline: refused (429)"] = len(server.refused) - refused_before
        return figures


async def _one(queue: Queue) -> None:
    queue.ask("quiet")
    await queue.all_ended()
    if queue.asked[0].code != "Ok":
        raise SystemExit(f"the first ask ended as {queue.asked[0].code}")


async def _offer(queue: Queue, tenant: str, rate: float, over: asyncio.Event) -> None:
    """Ask at random moments; a late moment does not delay the next."""
    due = time.monotonic()
    while not over.is_set():
        due += queue.chance.expovariate(rate)
        await asyncio.sleep(due - time.monotonic())
        queue.ask(tenant)


async def _drain(server: QuotaServer, queue: Queue) -> None:
    """Ask for what the quota allows at once; the provider has it when a minute was idle."""
    for _ in range(int(server.level / server.served[0][1])):
        queue.ask("noisy")


async def _until_drained(server: QuotaServer) -> None:
    while server.level > 0.1 * TOKENS_PER_MINUTE:
        await asyncio.sleep(1)


def _waves(calls: Sequence[float], first: float, last: float) -> float:
    seconds = Counter(int(at - first) for at in calls if first <= at < last)
    tens = [[seconds[second] for second in range(ten, ten + 10)] for ten in range(0, int(last - first) - 9, 10)]
    return fmean(pvariance(ten) / fmean(ten) for ten in tens if any(ten))


def _task(tenant: str, name: str, within: float) -> GenerateAnswer:
    now = datetime.now(UTC)
    request = Request(
        request_id=name,
        tenant=tenant,
        caller=tenant,
        groups=(),
        use_case="onboarding",
        question="How many days of annual leave does a new employee receive?",
        accepted_at=now,
        answer_by=now + timedelta(seconds=within),
        correlation_id=name,
        reply_to=ReplyTo(queue=f"answers-{tenant}", session=name),
    )
    passage = Candidate(
        passage_id="p",
        path="leave.md",
        version=1,
        title="Leave",
        start=0,
        end=len(TEXT),
        text=TEXT,
        tokens=800,
        score=1,
    )
    return GenerateAnswer(request=request, candidates=(passage,))


def _configured(folder: Path, address: str) -> Path:
    (folder / "use_cases").mkdir(parents=True, exist_ok=True)
    files = {
        "models.yaml": {
            "deployments": [
                {
                    "name": "small",
                    "provider": "compatible",
                    "endpoint": address,
                    "model": "small",
                    "region": "here",
                    "context_window": 4000,
                    "max_output": ANSWER,
                    "stream": False,
                    "tokens_per_minute": TOKENS_PER_MINUTE,
                }
            ]
        },
        "callers.yaml": {
            "tenants": {tenant: {"tokens_per_minute": 1_000_000_000} for tenant in ("noisy", "quiet")},
            "callers": [
                {
                    "name": tenant,
                    "tenant": tenant,
                    "use_cases": ["onboarding"],
                    "queue": f"ask-{tenant}",
                    "reply_queues": [f"answers-{tenant}"],
                }
                for tenant in ("noisy", "quiet")
            ],
        },
        "use_cases/onboarding.yaml": {
            "name": "onboarding",
            "description": "Answers questions.",
            "collection": "handbook",
            "prompt": "Answer from the passages.",
            "deployments": ["small"],
            "context_window": 4000,
            "answer_tokens": ANSWER,
            "question_tokens": 600,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(yaml.safe_dump(content))
    return folder


@asynccontextmanager
async def _redis(folder: Path) -> AsyncIterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = asyncio.subprocess.DEVNULL
    server = await asyncio.create_subprocess_exec(*command(port, folder), stdout=quiet, stderr=quiet)
    try:
        url = f"redis://127.0.0.1:{port}/0"
        async with asyncio.timeout(60):
            while True:
                probe = FailFastRedis(url, timeout=2.0)
                try:
                    await probe.probe()
                    break
                except Exception:  # noqa: BLE001 - it is starting
                    await asyncio.sleep(0.1)
                finally:
                    await probe.close()
        yield url
    finally:
        server.terminate()
        await server.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quota", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="30 s instead of two minutes after the burst")
    parser.add_argument("--refused-are-free", action="store_true", help="refused calls do not count as requests")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    seconds = 30.0 if options.quick else 120.0
    figures = asyncio.run(measure(options.seed, seconds=seconds, refused_count=not options.refused_are_free))
    print(
        f"seed {options.seed}, {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, Python {platform.python_version()}"
    )
    for name, value in figures.items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
