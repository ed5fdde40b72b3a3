"""`ragbus ask`: one question, by queue or over HTTP."""

import asyncio
import json
import time
import urllib.request
import uuid
from dataclasses import dataclass, field
from typing import Any

from ops import console
from ops.connect import LAPTOP_KEY, caller_named, fetch_json
from ops.errors import CommandError
from ops.target import Target

Answer = dict[str, Any]


def new_id() -> str:
    """An id for an ask."""
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its caller; `timeout` in seconds."""

    text: str
    use_case: str | None = None
    caller: str | None = None
    session: str | None = None
    timeout: float = 60
    refresh: bool = False
    message_id: str = field(default_factory=new_id)

    @property
    def cache(self) -> str | None:
        """The body's `cache` field."""
        return "refresh" if self.refresh else None


def goes_on(question: Question, *, http: bool) -> str:
    """The hint after Ctrl-C: the request continues, and how to cancel it."""
    prefix = "http/" if http else ""
    caller = f" --as {question.caller}" if question.caller else ""
    return f"the request continues; cancel it with `ragbus cancel {prefix}{question.message_id}{caller}`"


def by_queue(target: Target, question: Question) -> tuple[Answer, float]:
    """The outcome and the seconds it took; raises `CommandError`."""
    return asyncio.run(_by_queue(target, question))


def by_http(target: Target, question: Question) -> tuple[Answer, float]:
    """The same over HTTP; raises `CommandError`."""
    use_case = question.use_case or caller_named(target, question.caller).use_cases[0]
    url = f"{target.gateway}/v1/{use_case}/ask?wait={min(question.timeout, 120):.0f}&deadline={question.timeout:.0f}"
    key = target.variables.get("RAGBUS_API_KEY", LAPTOP_KEY)
    body = json.dumps({"question": question.text, "cache": question.cache or "use"}).encode()
    headers = {
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
        "Idempotency-Key": question.message_id,
    }
    began = time.perf_counter()
    answer = fetch_json(urllib.request.Request(url, body, headers), question.timeout + 20)  # noqa: S310 - our own gateway
    if "outcome" not in answer:
        raise CommandError(
            f"no outcome within {question.timeout:.0f} s; "
            f"get it later from {target.gateway}/v1/requests/{answer['request_id']}"
        )
    return answer, time.perf_counter() - began


async def _by_queue(target: Target, question: Question) -> tuple[Answer, float]:
    from azure.servicebus.exceptions import ServiceBusError

    from ops.connect import service_bus
    from ops.upstream import NoReply, Upstream

    caller = caller_named(target, question.caller)
    if caller.queue is None:
        raise CommandError(f"{caller.name} has no queue of its own; ask with --http")

    def unexpected(answer: Answer) -> None:
        console.err(f"the session has another answer: {answer.get('outcome')}, request {answer.get('request_id')}")

    replies, session = caller.reply_queues[0], question.session
    try:
        async with (
            service_bus(target) as bus,
            Upstream(bus, queue=caller.queue, replies=replies, session=session, unexpected=unexpected) as app,
        ):
            began = time.perf_counter()
            answer = await app.ask(
                question.text,
                use_case=question.use_case,
                message_id=question.message_id,
                within=question.timeout,
                cache=question.cache,
            )
            return answer, time.perf_counter() - began
    except NoReply as silence:
        raise CommandError(
            f"{silence}; run `ragbus queues` to see where it waits, `ragbus doctor` to see why"
        ) from silence
    except ServiceBusError as unavailable:
        raise CommandError(f"{target.host} does not answer: {unavailable}; run `ragbus doctor`") from unavailable
