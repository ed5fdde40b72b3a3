"""Sessions: messages in order for one receiver at a time, and a memory beside them."""

import asyncio
from typing import Any

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusMessage
from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import (
    OperationTimeoutError,
    ServiceBusError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from servicebus_local.bus.sessions import GRACE
from tests.protocol.queue_client import QueueClient, eventually, moment

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="session")
def answers(queue_clients: dict[str, QueueClient]) -> QueueClient:
    return queue_clients["answers"]


async def accept(queue_client: QueueClient, session_id: Any, **options: Any) -> ServiceBusReceiver:
    """Open a receiver on a session; it is closed with the queue_client."""
    return await queue_client.open(queue_client.client.get_queue_receiver("answers", session_id=session_id, **options))


async def say(queue_client: QueueClient, session_id: str, *bodies: str) -> None:
    await queue_client.sender.send_messages([ServiceBusMessage(body, session_id=session_id) for body in bodies])


async def take(queue_client: QueueClient, receiver: ServiceBusReceiver, count: int) -> list[str]:
    taken = []
    for _ in range(count):
        message = await queue_client.next(receiver)
        await receiver.complete_message(message)
        taken.append(str(message))
    return taken


async def test_a_session_delivers_its_own_messages_in_order(answers: QueueClient) -> None:
    await say(answers, "a", "a1", "a2")
    await say(answers, "b", "b1")
    await say(answers, "a", "a3")
    a, b = await asyncio.gather(accept(answers, "a"), accept(answers, "b"))
    assert await take(answers, a, 3) == ["a1", "a2", "a3"]
    assert await take(answers, b, 1) == ["b1"]


async def test_a_session_may_be_awaited_before_it_has_messages_and_have_any_name(answers: QueueClient) -> None:
    names = ["early", "", "ünïcode / $x"]
    receivers = await asyncio.gather(*(accept(answers, name) for name in names))
    for name, receiver in zip(names, receivers, strict=True):
        assert receiver.session.session_id == name
        await say(answers, name, f"for {name}")
        assert await take(answers, receiver, 1) == [f"for {name}"]


async def test_a_session_is_locked_and_renewed(answers: QueueClient) -> None:
    first = await accept(answers, "locked")
    assert first.session.locked_until_utc == moment(60)
    await answers.bus.advance(59)
    assert await first.session.renew_lock() == moment(60)
    await answers.bus.advance(59)
    second = answers.client.get_queue_receiver("answers", session_id="locked")
    assert isinstance(await answers.refusal(second), SessionCannotBeLockedError)


async def test_what_a_session_remembers_outlives_its_receiver(answers: QueueClient) -> None:
    first = await accept(answers, "kept")
    assert await first.session.get_state() is None
    await first.session.set_state(b"\x01half way")
    await answers.bus.advance(60 + GRACE)
    second = await accept(answers, "kept")
    assert await second.session.get_state() == b"\x01half way"
    await second.session.set_state(None)
    assert await second.session.get_state() is None


async def test_next_available_is_the_session_that_has_waited_longest(answers: QueueClient) -> None:
    for name in ("x", "y", "z"):
        await say(answers, name, f"for {name}")
    receivers = [await accept(answers, NEXT_AVAILABLE_SESSION, max_wait_time=5) for _ in range(3)]
    assert [receiver.session.session_id for receiver in receivers] == ["x", "y", "z"]
    taken = await asyncio.gather(*(take(answers, receiver, 1) for receiver in receivers))
    assert taken == [["for x"], ["for y"], ["for z"]]


async def test_a_receiver_that_waits_for_any_session_gets_the_first_that_comes(answers: QueueClient) -> None:
    opening = asyncio.create_task(accept(answers, NEXT_AVAILABLE_SESSION, max_wait_time=5))
    await eventually(lambda: answers.bus.waiting_for_session("answers") > 0)
    await say(answers, "fresh", "hello")
    receiver = await opening
    assert receiver.session.session_id == "fresh"
    assert await take(answers, receiver, 1) == ["hello"]


async def test_waiting_for_any_session_ends_with_a_time_out(answers: QueueClient) -> None:
    waiting = answers.client.get_queue_receiver("answers", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=5)
    opening = asyncio.create_task(answers.refusal(waiting))
    await eventually(lambda: answers.bus.waiting_for_session("answers") > 0)
    await answers.bus.advance(5)
    assert isinstance(await opening, OperationTimeoutError)


async def test_a_session_whose_lock_ends_is_lost_and_its_deliveries_counted(answers: QueueClient) -> None:
    await say(answers, "slow", "s1", "s2")
    loser = await accept(answers, "slow")
    held = await answers.next(loser)
    await answers.bus.advance(60 + GRACE)
    with pytest.raises(SessionLockLostError):
        await loser.complete_message(held)
    winner = await accept(answers, "slow")
    again = await answers.next(winner)
    assert (str(again), again.delivery_count) == ("s1", 1)
    await winner.complete_message(again)
    assert await take(answers, winner, 1) == ["s2"]


async def test_a_receiver_that_waits_as_long_as_its_lock_comes_to_its_own_end(answers: QueueClient) -> None:
    receiver = await accept(answers, "quiet")
    assert receiver.session.locked_until_utc == moment(60)
    await answers.bus.advance(60)
    assert await receiver.receive_messages(1, max_wait_time=0.2) == []
    await say(answers, "quiet", "late")
    assert await take(answers, receiver, 1) == ["late"]


async def test_a_receiver_that_leaves_frees_its_session_uncounted(answers: QueueClient) -> None:
    await say(answers, "shared", "one", "two")
    first = await accept(answers, "shared")
    await answers.next(first)
    await first.close()
    second = await accept(answers, "shared")
    again = await answers.next(second)
    assert (str(again), again.delivery_count) == ("one", 0)
    await second.complete_message(again)
    assert await take(answers, second, 1) == ["two"]


async def test_messages_of_a_session_are_abandoned_deferred_and_dead_lettered(answers: QueueClient) -> None:
    await say(answers, "all", "abandon", "defer", "bury")
    receiver = await accept(answers, "all")
    await receiver.abandon_message(await answers.next(receiver))
    await receiver.complete_message(await answers.next(receiver))
    later = await answers.next(receiver)
    await receiver.defer_message(later)
    [deferred] = await receiver.receive_deferred_messages([later.sequence_number or 0])
    await receiver.complete_message(deferred)
    await receiver.dead_letter_message(await answers.next(receiver), reason="why")
    counts = answers.bus.counts("answers")
    assert (counts.active, counts.dead_lettered) == (0, 1)


async def test_sessions_with_messages_or_state_are_listed(answers: QueueClient) -> None:
    await say(answers, "listed-1", "x")
    receiver = await accept(answers, "listed-2")
    await receiver.session.set_state(b"s")
    listed = {name async for name in answers.client.list_queue_sessions("answers")}
    assert listed == {"listed-1", "listed-2"}


async def test_the_kind_of_receiver_must_fit_the_queue(answers: QueueClient) -> None:
    without, unwanted = await asyncio.gather(
        answers.refusal(answers.client.get_queue_receiver("answers")),
        answers.refusal(answers.client.get_queue_receiver("settled", session_id="a")),
    )
    assert "'answers' requires sessions" in str(without)
    assert "'settled' does not require sessions" in str(unwanted)


async def test_a_message_without_a_session_is_refused(answers: QueueClient) -> None:
    with pytest.raises(ServiceBusError, match="SessionId was not set"):
        await answers.send("for nobody")
