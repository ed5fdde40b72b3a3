"""Duplicate detection: the same message id within the window is accepted and forgotten."""

import pytest
from azure.servicebus import ServiceBusMessage

from tests.protocol.queue_client import QueueClient, moment

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="session")
def once(queue_clients: dict[str, QueueClient]) -> QueueClient:
    return queue_clients["once"]


@pytest.fixture(scope="session")
def often(queue_clients: dict[str, QueueClient]) -> QueueClient:
    return queue_clients["often"]


async def take_all(queue_client: QueueClient) -> list[str]:
    taken = []
    while queue_client.left:
        message = await queue_client.next()
        await queue_client.receiver.complete_message(message)
        taken.append(str(message))
    return taken


async def test_the_second_of_two_equal_ids_is_dropped_silently(once: QueueClient) -> None:
    await once.send("first", message_id="a")
    await once.send("second", message_id="a")
    assert await take_all(once) == ["first"]


async def test_an_id_is_remembered_after_its_message_is_completed(once: QueueClient) -> None:
    await once.send("first", message_id="b")
    assert await take_all(once) == ["first"]
    await once.send("second", message_id="b")
    assert once.left == 0


async def test_an_id_is_forgotten_when_the_window_has_passed(once: QueueClient) -> None:
    await once.send("first", message_id="c")
    await once.bus.advance(59)
    await once.send("too early", message_id="c")
    await once.bus.advance(1)
    await once.send("second", message_id="c")
    assert await take_all(once) == ["first", "second"]


async def test_duplicates_are_found_within_a_batch(once: QueueClient) -> None:
    bodies = [("one", "d"), ("two", "e"), ("three", "d")]
    await once.sender.send_messages([ServiceBusMessage(body, message_id=key) for body, key in bodies])
    assert await take_all(once) == ["one", "two"]


async def test_scheduling_counts_from_the_moment_it_is_asked(once: QueueClient) -> None:
    due = moment(30)
    [number] = await once.sender.schedule_messages(ServiceBusMessage("one", message_id="f"), due)
    [same] = await once.sender.schedule_messages(ServiceBusMessage("two", message_id="f"), due)
    await once.send("three", message_id="f")
    assert number == same
    await once.bus.advance(30)
    assert await take_all(once) == ["one"]


async def test_messages_without_an_id_are_never_duplicates(once: QueueClient) -> None:
    anonymous = [ServiceBusMessage("x"), ServiceBusMessage("x")]
    for message in anonymous:
        message.message_id = None  # the SDK makes one up; other clients do not
    await once.sender.send_messages(anonymous)
    assert len(await take_all(once)) == 2


async def test_without_duplicate_detection_repeats_are_kept(often: QueueClient) -> None:
    await often.send("x", "x", message_id="same")
    assert len(await take_all(often)) == 2
