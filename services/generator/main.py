"""Plugs the generator together and runs it: `python -m services.generator`."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from services.generator.chat import Chat
from services.generator.handler import Generator
from services.generator.settings import GeneratorSettings
from shared.access.callers import Callers
from shared.access.use_cases import read_use_cases
from shared.budget.tenant import TenantBudget
from shared.bus.port import Received
from shared.cache.answers import AnswerCache
from shared.contracts.base import check_version
from shared.contracts.generate import GenerateAnswer
from shared.contracts.queues import GENERATE, OUTCOMES
from shared.llm.deployments import Deployments
from shared.worker.plumbing import Parts, internal_identity, run_worker
from shared.worker.worker import Job


def make_job(settings: GeneratorSettings, parts: Parts) -> Job[GenerateAnswer]:
    """The generator's job, from its settings; raises `SettingsError`."""
    callers = Callers.read(settings.config / "callers.yaml")
    chat = Chat(timedelta(seconds=settings.model_timeout), parts.metrics)
    parts.closing.append(chat.close)
    use_cases = read_use_cases(settings.config / "use_cases")
    deployments = Deployments.read(settings.config / "models.yaml").chats()
    used = {name for use_case in use_cases.values() for name in use_case.deployments}
    chat.prepare(deployment for deployment in deployments if deployment.name in used)
    generator = Generator(
        use_cases=use_cases,
        deployments=deployments,
        model=chat,
        ledger=parts.ledger,
        budget=TenantBudget(parts.redis, callers.tokens_per_minute),
        cache=AnswerCache(parts.redis),
        clock=lambda: datetime.now(UTC),
        tries_per_deployment=settings.tries_per_deployment,
    )
    return Job(
        queue=GENERATE,
        decode=decode,
        handle=generator.handle,
        identify=internal_identity,
        request=lambda task: task.request,
        ahead=(*callers.reply_queues(), OUTCOMES),
    )


def decode(message: Received) -> GenerateAnswer:
    """The task in `message`; raises `Unprocessable`."""
    check_version(message.subject or GenerateAnswer.kind, GenerateAnswer)
    return GenerateAnswer.decode(message.body)


async def make_jobs(settings: GeneratorSettings, parts: Parts) -> Sequence[Job[GenerateAnswer]]:
    """All jobs of this service."""
    return [make_job(settings, parts)]


def main() -> None:
    """Run until SIGTERM."""
    asyncio.run(run_worker("generator", GeneratorSettings, make_jobs))
