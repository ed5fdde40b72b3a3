"""`ragbus ask` and `ragbus cancel`: one question, through either door, and taking it back."""

import asyncio
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass
from typing import Any

from ops.problem import Problem
from ops.target import Target

Answer = dict[str, Any]
# Of the example's first caller; good on this machine only.
LAPTOP_KEY = "laptop-key-welcome-app"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and as whom."""

    text: str
    use_case: str | None = None
    caller: str | None = None
    session: str | None = None
    timeout: float = 60


def by_queue(target: Target, question: Question) -> tuple[Answer, float]:
    """The outcome and the seconds it took; raises `Problem`."""
    return asyncio.run(_by_queue(target, question))


def by_http(target: Target, question: Question) -> tuple[Answer, float]:
    """The same through the gateway's HTTP door; raises `Problem`."""
    use_case = question.use_case or _caller(target, question.caller).use_cases[0]
    url = f"{target.gateway}/v1/{use_case}/ask?wait={min(question.timeout, 120):.0f}&deadline={question.timeout:.0f}"
    key = target.variables.get("RAGBUS_API_KEY", LAPTOP_KEY)
    body = json.dumps({"question": question.text}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    began = time.perf_counter()
    answer = _posted(urllib.request.Request(url, body, headers), question.timeout + 20)  # noqa: S310 - our own gateway
    if "outcome" not in answer:
        raise Problem(
            f"no outcome within {question.timeout:.0f} s; fetch {target.gateway}/v1/requests/{answer['request_id']}"
        )
    return answer, time.perf_counter() - began


def cancel_by_queue(target: Target, message_id: str, caller: str | None = None) -> None:
    """Send a `cancel.v1` for the ask that `caller` sent under `message_id`; raises `Problem`."""
    asyncio.run(_cancel_by_queue(target, message_id, _caller(target, caller)))


def cancel_by_http(target: Target, request_id: str) -> Answer:
    """The outcome of the request from now on; raises `Problem`."""
    key = target.variables.get("RAGBUS_API_KEY", LAPTOP_KEY)
    headers = {"Authorization": f"Bearer {key}"}
    url = f"{target.gateway}/v1/requests/{urllib.parse.quote(request_id, safe='')}"
    return _posted(urllib.request.Request(url, headers=headers, method="DELETE"), 20)  # noqa: S310 - our own gateway


async def _cancel_by_queue(target: Target, message_id: str, caller: Any) -> None:
    from azure.servicebus import ServiceBusMessage
    from azure.servicebus.exceptions import ServiceBusError

    from ops.connect import service_bus

    if caller.queue is None:
        raise Problem(f"{caller.name} has no queue of its own; cancel with --http")
    said = ServiceBusMessage(
        json.dumps({"message_id": message_id}),
        subject="cancel.v1",
        content_type="application/json",
        message_id=uuid.uuid4().hex,
    )
    try:
        async with service_bus(target) as bus, bus.get_queue_sender(caller.queue) as sender:
            await sender.send_messages(said)
    except ServiceBusError as away:
        raise Problem(f"{target.host} does not answer: {away}; `ragbus doctor` says more") from away


async def _by_queue(target: Target, question: Question) -> tuple[Answer, float]:
    from azure.servicebus.exceptions import ServiceBusError

    from ops.connect import service_bus
    from ops.upstream import NoReply, Upstream

    caller = _caller(target, question.caller)
    if caller.queue is None:
        raise Problem(f"{caller.name} has no queue of its own; ask with --http")
    try:
        async with (
            service_bus(target) as bus,
            Upstream(
                bus,
                queue=caller.queue,
                replies=caller.reply_queues[0],
                session=question.session,
                one_connection=target.connections > 0,
            ) as app,
        ):
            began = time.perf_counter()
            answer = await app.ask(question.text, use_case=question.use_case, within=question.timeout)
            return answer, time.perf_counter() - began
    except NoReply as silence:
        raise Problem(f"{silence}; `ragbus queues` shows where it waits, `ragbus doctor` why") from silence
    except ServiceBusError as away:
        raise Problem(f"{target.host} does not answer: {away}; `ragbus doctor` says more") from away


def _caller(target: Target, name: str | None) -> Any:
    from ops.connect import callers

    known = callers(target).callers
    if not known:
        raise Problem(f"{target.config}/callers.yaml has no caller")
    found = next((caller for caller in known if name in (None, caller.name)), None)
    if found is None:
        raise Problem(f"no caller is called {name!r}; there are: {', '.join(caller.name for caller in known)}")
    return found


def _posted(request: urllib.request.Request, timeout: float) -> Answer:
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310 - our own gateway
            answer: Answer = json.load(response)
            return answer
    except urllib.error.HTTPError as refused:
        raise Problem(f"{request.full_url} answered {refused.code}: {_detail(refused)}") from refused
    except (OSError, ValueError) as away:
        raise Problem(f"{request.full_url} does not answer ({away}); is the gateway running?") from away


def _detail(refused: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(refused)["detail"])
    except (ValueError, KeyError, TypeError):
        return refused.reason
