"""The client that people copy (`ops/upstream.py`), over the real SDK and the local broker."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterable
from time import time
from typing import Any

import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from servicebus_local.bus.topology import QueueOptions
from servicebus_local.testing import LocalBus, ManualClock

from local.stack.stack import EXAMPLE
from ops.commands.ask import Question, by_queue
from ops.target import Target
from ops.upstream import NoReply, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Long for a slow machine; a test that passes never waits so long.
PATIENCE = 300.0
DEAD = "answers/$DeadLetterQueue"
QUEUES = {"ask": QueueOptions(), "answers": QueueOptions(requires_session=True, lock_duration=60)}


class Service:
    """Answers what is asked with the question in capitals, when it is told to."""

    def __init__(self, bus: LocalBus, receiver: ServiceBusReceiver, sender: ServiceBusSender) -> None:
        self.bus = bus
        self.sender = sender
        self._receiver = receiver

    async def asked(self, count: int = 1) -> list[ServiceBusReceivedMessage]:
        """The next `count` asks."""
        found: list[ServiceBusReceivedMessage] = []
        while len(found) < count:
            for ask in await self._receiver.receive_messages(max_message_count=100, max_wait_time=PATIENCE):
                await self._receiver.complete_message(ask)
                found.append(ask)
        return found

    async def answer(self, asks: Iterable[ServiceBusReceivedMessage], **changes: Any) -> None:
        """Reply to `asks`."""
        for ask in asks:
            said = {"text": json.loads(str(ask))["question"].upper()}
            given = {
                "session_id": ask.reply_to_session_id,
                "correlation_id": ask.message_id,
                "message_id": f"{ask.message_id}/reply",
                **changes,
            }
            await self.sender.send_messages(ServiceBusMessage(json.dumps(said), **given))

    async def until_read(self) -> None:
        """Wait until no reply is left on its queue."""
        await self.bus.wait_until(lambda: not self.bus.messages("answers"), PATIENCE)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus() -> AsyncIterator[LocalBus]:
    # An hour ahead of the SDK, which judges locks by real time and would call a slow test's lost.
    async with LocalBus(QUEUES, clock=ManualClock(time() + 3600)) as bus:
        yield bus


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(bus: LocalBus) -> AsyncIterator[ServiceBusClient]:
    async with ServiceBusClient.from_connection_string(bus.connection_string) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(bus: LocalBus, client: ServiceBusClient) -> AsyncIterator[Service]:
    async with client.get_queue_receiver("ask") as receiver, client.get_queue_sender("answers") as sender:
        yield Service(bus, receiver, sender)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(client: ServiceBusClient, service: Service) -> AsyncIterator[Upstream]:
    async with Upstream(client, session="me") as app:
        yield app


def ask(app: Upstream, question: str, **more: Any) -> "asyncio.Task[dict[str, Any]]":
    return asyncio.create_task(app.ask(question, within=PATIENCE, **more))


@pytest.mark.parametrize("count", [20, 200])
async def test_each_of_many_concurrent_asks_gets_its_own_answer(app: Upstream, service: Service, count: int) -> None:
    asking = [ask(app, f"question {n}") for n in range(count)]
    await service.answer(reversed(await service.asked(count)))
    assert [answer["text"] for answer in await asyncio.gather(*asking)] == [f"QUESTION {n}" for n in range(count)]
    await service.until_read()


async def test_an_answer_that_comes_twice_is_handed_over_once(app: Upstream, service: Service) -> None:
    asking = ask(app, "once?")
    asks = await service.asked()
    await service.answer(asks)
    await service.answer(asks, message_id="the same outcome again")
    assert (await asking)["text"] == "ONCE?"
    await service.until_read()
    assert service.bus.messages(DEAD) == []


async def test_a_reply_without_a_waiting_ask_is_logged_and_dead_lettered(
    app: Upstream, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    asking = ask(app, "mine?")
    asks = await service.asked()
    with caplog.at_level(logging.WARNING, "ops.upstream"):
        await service.answer(asks, correlation_id="another's")
        await service.sender.send_messages(ServiceBusMessage(b"\xff{", session_id="me", correlation_id="not JSON"))
        await service.answer(asks, message_id="the right one")
        assert (await asking)["text"] == "MINE?"
        await service.until_read()
    kept = [each.application_properties["DeadLetterReason"] for each in service.bus.messages(DEAD)]
    assert kept == ["Unexpected", "NotJson"]
    assert "another's" in caplog.text
    service.bus.purge(DEAD)


async def test_a_reply_without_a_waiting_ask_goes_to_the_apps_function(
    client: ServiceBusClient, service: Service
) -> None:
    found: list[dict[str, Any]] = []
    async with Upstream(client, session="named", unexpected=found.append) as app:
        asking = ask(app, "mine?")
        asks = await service.asked()
        await service.answer(asks, correlation_id="another's")
        await service.answer(asks, message_id="the right one")
        await asking
        await service.until_read()
    assert found == [{"text": "MINE?"}]


async def test_an_app_that_is_closed_tells_those_who_wait(client: ServiceBusClient, service: Service) -> None:
    async with Upstream(client) as app:
        asking = ask(app, "too late?")
        await service.asked()
    with pytest.raises(NoReply, match="closed before the answer"):
        await asking


async def test_an_ask_that_is_cancelled_leaves_the_sender_to_the_others(app: Upstream, service: Service) -> None:
    gone = ask(app, "never mind")
    await asyncio.sleep(0)
    gone.cancel()
    asking = ask(app, "still there?")
    await service.answer(each for each in await service.asked(2) if "still" in str(each))
    assert (await asking)["text"] == "STILL THERE?"


async def test_the_command_asks_as_an_app_does(bus: LocalBus, service: Service) -> None:
    variables = {"RAGBUS_SERVICEBUS_CONNECTION_STRING": bus.connection_string, "RAGBUS_CONFIG": str(EXAMPLE)}
    question = Question("how?", timeout=PATIENCE, refresh=True, message_id="mine")
    asking = asyncio.create_task(asyncio.to_thread(by_queue, Target(variables, "a test"), question))
    [asked] = await service.asked()
    assert (asked.message_id, json.loads(str(asked))) == (question.message_id, {"question": "how?", "cache": "refresh"})
    await service.answer([asked])
    answer, _ = await asking
    assert answer == {"text": "HOW?"}


async def test_two_asks_at_once_cannot_share_an_id(app: Upstream, service: Service) -> None:
    first = ask(app, "one", message_id="same")
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="same is being asked already"):
        await app.ask("two", message_id="same")
    await service.answer(await service.asked())
    assert (await first)["text"] == "ONE"


async def test_a_lost_session_lock_is_taken_again_and_nothing_is_lost(app: Upstream, service: Service) -> None:
    asking = ask(app, "how long?")
    asks = await service.asked()
    await service.bus.advance(61)
    await service.answer(asks)
    assert (await asking)["text"] == "HOW LONG?"
