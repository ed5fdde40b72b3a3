"""The whole system on this machine with a folder's documents: index, find, ask."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from azure.servicebus.aio import ServiceBusClient

from evals.questions import Question
from evals.score import Passage, Result
from local.stack import Stack
from ops.registry import documents
from ops.target import read_stack
from ops.upstream import Upstream
from services.retriever.handler import Retriever
from services.retriever.main import build
from services.retriever.settings import RetrieverSettings
from shared.access.callers import Callers
from shared.budget.rules import Amount
from shared.budget.tenant import Refusal
from shared.contracts.generate import GenerateAnswer
from shared.contracts.outcome import ModelCall
from shared.contracts.request import ReplyTo, Request
from shared.contracts.retrieve import RetrievePassages
from shared.pacing.pacing import Pacing
from shared.redis import FailFastRedis

QUEUE = "ask"
IN_FLIGHT = 12
WITHIN = 120  # seconds for an answer


class _Free:
    """No budget, no cache: the retriever is asked beside the system."""

    async def begin(
        self, request: Request, name: str, worst: Amount, lasts: timedelta, *, keep_estimate: bool = False
    ) -> Refusal | None:
        """Nothing is refused."""
        return None

    async def settle(self, request: Request, name: str, call: ModelCall, used: Amount) -> None:
        """Nothing is counted."""

    async def give_back(self, request: Request, call: str = "") -> Sequence[ModelCall]:
        """Nothing was reserved."""
        return []

    async def epoch(self, tenant: str, collection: str) -> int | None:
        """Nothing is cached."""
        return None


class System:
    """A running system that has indexed everything."""

    def __init__(self, app: Upstream, retriever: Retriever, request: Request) -> None:
        self._app = app
        self._retriever = retriever
        self._request = request

    async def answer(self, questions: Sequence[Question]) -> list[Result]:
        """Find passages for each question and ask it through the queue, several at a time; in the given order."""
        waiting, results = iter(enumerate(questions)), dict[int, Result]()

        async def one_after_the_other() -> None:
            for position, question in waiting:
                results[position] = await self._answer(question)

        await asyncio.gather(*(one_after_the_other() for _ in range(IN_FLIGHT)))
        return [results[position] for position in range(len(questions))]

    async def _answer(self, question: Question) -> Result:
        found = await self._find(question.text)
        outcome = await self._app.ask(question.text, within=WITHIN)
        return Result(
            question=question,
            found=found,
            outcome=outcome["outcome"],
            code=outcome["code"],
            text=outcome.get("text", ""),
            cited=frozenset(citation["path"] for citation in outcome.get("citations", ())),
        )

    async def _find(self, text: str) -> tuple[Passage, ...]:
        now = datetime.now(UTC)
        changes = {"question": text, "accepted_at": now, "answer_by": now + timedelta(seconds=WITHIN)}
        [out] = await self._retriever.handle(RetrievePassages(request=self._request.model_copy(update=changes)))
        if not isinstance(out.message, GenerateAnswer):
            return ()
        return tuple(Passage(each.path, each.text) for each in out.message.candidates)


@asynccontextmanager
async def running(config: Path, files: Path) -> AsyncIterator[System]:
    """The system with the configuration in `config`, once all `files` are indexed; asks through its `ask` queue."""
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "config"
        shutil.copytree(config, own)
        _without_limits(own / "callers.yaml")
        async with Stack(Path(folder) / "stack", ports="free", config=own, documents=files) as stack:
            await _indexed(stack, _paths(files))
            os.environ.update(stack.env("retriever"))  # the retriever is asked in this process as well
            settings = RetrieverSettings.load()
            async with (
                ServiceBusClient.from_connection_string(stack.connection_string) as bus,
                Upstream(bus) as app,
                _redis(settings) as redis,
                build(settings, epochs=_Free(), budget=_Free(), pacing=Pacing(redis)) as retriever,
            ):
                yield System(app, retriever, _request(own / "callers.yaml"))


@asynccontextmanager
async def _redis(settings: RetrieverSettings) -> AsyncIterator[FailFastRedis]:
    redis = FailFastRedis(settings.redis_url.get_secret_value(), timeout=settings.redis_timeout)
    try:
        yield redis
    finally:
        await redis.close()


def _without_limits(callers: Path) -> None:
    """Give every tenant a budget that no evaluation uses up."""
    content = yaml.safe_load(callers.read_text("utf-8"))
    content["tenants"] = {tenant: {"tokens_per_minute": 500_000_000} for tenant in content["tenants"]}
    callers.write_text(yaml.safe_dump(content), "utf-8")


def _paths(files: Path) -> set[str]:
    return {path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file()}


async def _indexed(stack: Stack, expected: set[str]) -> None:
    target = read_stack(stack.folder.state)
    assert target is not None
    while not expected <= {document.path for document in await documents(target) if document.finished}:
        await asyncio.sleep(0.2)


def _request(callers: Path) -> Request:
    """What the gateway makes of an ask of the `ask` queue's caller."""
    caller = Callers.read(callers).at_queue(QUEUE)
    if caller is None:
        raise ValueError(f"{callers} has no caller whose queue is {QUEUE!r}")
    now = datetime.now(UTC)
    return Request(
        request_id="evaluation",
        tenant=caller.tenant,
        caller=caller.name,
        groups=caller.groups,
        use_case=caller.use_cases[0],
        question="?",
        accepted_at=now,
        answer_by=now,
        correlation_id="evaluation",
        reply_to=ReplyTo(queue="answers", session="evaluation"),
    )
