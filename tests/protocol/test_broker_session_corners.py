"""The corners of sessions: what they remember, who may do what, and the exact error when they are lost."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusMessage,
    ServiceBusMessageState,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
)
from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import (
    MessageNotFoundError,
    MessageSizeExceededError,
    OperationTimeoutError,
    ServiceBusError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from local.broker.testing import LocalBus, ManualClock
from tests.protocol.broker_desk import SOON, Desk, desk_at, eventually, topology

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLOCK = ManualClock(time() + 3600)
SESSIONS = {"RequiresSession": True, "LockDuration": "PT1M", "MaxDeliveryCount": 3}
TOPOLOGY = topology(answers=SESSIONS, many=SESSIONS, any=SESSIONS, plain={})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def answers() -> AsyncIterator[Desk]:
    async with LocalBus(TOPOLOGY, clock=CLOCK) as bus, desk_at(bus, "answers", receiver=False, graves=True) as desk:
        yield desk


def moment(seconds: float = 0) -> datetime:
    return datetime.fromtimestamp(int((CLOCK.now + seconds) * 1000) / 1000, UTC)


def receiver_of(desk: Desk, session_id: Any, queue: str = "answers", **options: Any) -> ServiceBusReceiver:
    return desk.client.get_queue_receiver(queue, session_id=session_id, **options)


async def accept(desk: Desk, *session_ids: str, **options: Any) -> list[ServiceBusReceiver]:
    """Open receivers on sessions, all at once; they are closed with the desk."""
    receivers = [receiver_of(desk, session_id, **options) for session_id in session_ids]
    await asyncio.gather(*map(desk.open, receivers))
    return receivers


async def say(desk: Desk, session_id: str, *bodies: str) -> None:
    await desk.sender.send_messages([ServiceBusMessage(body, session_id=session_id) for body in bodies])


async def one(receiver: ServiceBusReceiver) -> ServiceBusReceivedMessage:
    [message] = await receiver.receive_messages(1, max_wait_time=SOON)
    return message


# --------------------------------------------------------------------------- what a session remembers


async def test_a_state_may_be_text_or_bytes_or_nothing(answers: Desk) -> None:
    [receiver] = await accept(answers, "stateful")
    session = receiver.session
    assert await session.get_state(timeout=5) is None
    large = b"\x01" * 200_000
    states: list[tuple[Any, bytes | None]] = [
        ("half way é", "half way é".encode()),
        (b"\x00\xff", b"\x00\xff"),
        (bytearray(b"array"), b"array"),
        ("", b""),
        (large, large),
        (None, None),
    ]
    for state, read in states:
        await session.set_state(state, timeout=5)
        assert await session.get_state() == read
    with pytest.raises(MessageSizeExceededError):
        await session.set_state(b"x" * 300_000)
    assert await session.get_state() is None
    for call in (session.get_state(timeout=0), session.set_state(None, timeout=-1), session.renew_lock(timeout=0)):
        with pytest.raises(ValueError, match="greater than 0"):
            await call


async def test_a_session_knows_its_id_and_its_lock(answers: Desk) -> None:
    [receiver] = await accept(answers, "known", client_identifier="clerk")
    session = receiver.session
    assert (session.session_id, session.locked_until_utc, session.auto_renew_error) == ("known", moment(60), None)
    assert receiver.client_identifier == "clerk"
    await answers.bus.advance(30)
    assert session.locked_until_utc == moment(30)
    assert await session.renew_lock(timeout=5) == session.locked_until_utc == moment(60)


# --------------------------------------------------------------------------- messages of a session


async def test_messages_of_a_session_have_tokens_and_no_locks_of_their_own(answers: Desk) -> None:
    [receiver] = await accept(answers, "tokens")
    await say(answers, "tokens", "x")
    message = await one(receiver)
    assert (message.session_id, message.locked_until_utc) == ("tokens", None)
    assert isinstance(message.lock_token, UUID)
    with pytest.raises(TypeError, match="invalid operation when working with sessions"):
        await receiver.renew_message_lock(message)
    await receiver.complete_message(message)


async def test_what_is_abandoned_comes_first_again_and_is_counted_out(answers: Desk) -> None:
    [receiver] = await accept(answers, "stubborn")
    await say(answers, "stubborn", "bad", "good")
    for count in range(3):
        message = await one(receiver)
        assert (str(message), message.delivery_count) == ("bad", count)
        await receiver.abandon_message(message)
    good = await one(receiver)
    await receiver.complete_message(good)
    buried = await answers.buried()
    assert (str(good), str(buried), buried.session_id) == ("good", "bad", "stubborn")
    assert (buried.dead_letter_reason, buried.delivery_count) == ("MaxDeliveryCountExceeded", 3)


async def test_the_locked_messages_of_one_session_hold_up_no_other(answers: Desk) -> None:
    first, second = await accept(answers, "left", "right")
    await say(answers, "left", "l1", "l2")
    await say(answers, "right", "r1")
    left, right = await asyncio.gather(one(first), one(second))
    assert [str(left), str(right), str(await one(first))] == ["l1", "r1", "l2"]
    await asyncio.gather(first.close(), second.close())


async def test_a_session_is_looked_into_by_its_holder_alone(answers: Desk) -> None:
    await say(answers, "seen", "a", "b", "c")
    await say(answers, "unseen", "x")
    [receiver] = await accept(answers, "seen")
    await receiver.defer_message(await one(receiver))
    later = ServiceBusMessage("later", session_id="seen")
    [number] = await answers.sender.schedule_messages(later, moment(3600))
    first = await receiver.peek_messages(2, sequence_number=1)
    rest = await receiver.peek_messages(9)
    states = [(str(message), message.state) for message in first + rest]
    assert states == [
        ("a", ServiceBusMessageState.DEFERRED),
        ("b", ServiceBusMessageState.ACTIVE),
        ("c", ServiceBusMessageState.ACTIVE),
        ("later", ServiceBusMessageState.SCHEDULED),
    ]
    assert {message.session_id for message in first + rest} == {"seen"}
    from_third = await receiver.peek_messages(9, sequence_number=rest[0].sequence_number or 0)
    assert [str(message) for message in from_third] == ["c", "later"]
    await answers.sender.cancel_scheduled_messages(number)


async def test_deferred_messages_belong_to_their_session(answers: Desk) -> None:
    mine, other = await accept(answers, "mine", "other")
    await say(answers, "mine", "x")
    message = await one(mine)
    await mine.defer_message(message)
    number = message.sequence_number or 0
    with pytest.raises(MessageNotFoundError):
        await other.receive_deferred_messages([number])
    [deferred] = await mine.receive_deferred_messages([number])
    assert (str(deferred), deferred.delivery_count, deferred.locked_until_utc) == ("x", 1, None)
    await mine.dead_letter_message(deferred, reason="Testing", error_description="told")
    buried = await answers.buried()
    assert (buried.dead_letter_reason, buried.dead_letter_error_description) == ("Testing", "told")


async def test_a_session_is_received_and_deleted(answers: Desk) -> None:
    await say(answers, "taken", "a", "b")
    [taker] = await accept(answers, "taken", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE)
    got = [await one(taker) for _ in range(2)]
    assert [(str(message), message.lock_token) for message in got] == [("a", None), ("b", None)]
    with pytest.raises(ValueError, match="not supported in 'RECEIVE_AND_DELETE'"):
        await taker.complete_message(got[0])
    await taker.session.set_state("still there")
    assert await taker.session.get_state() == b"still there"
    await taker.session.set_state(None)
    refused = await answers.refusal(receiver_of(answers, "taken"))
    assert isinstance(refused, SessionCannotBeLockedError)


async def test_an_iterator_over_a_session_ends_when_nothing_comes(answers: Desk) -> None:
    await say(answers, "walked", "a", "b", "c")
    [receiver] = await accept(answers, "walked", max_wait_time=0.2)
    seen = []
    async for message in receiver:
        assert message.session_id == receiver.session.session_id == "walked"
        await receiver.complete_message(message)
        seen.append(str(message))
    assert seen == ["a", "b", "c"]


async def test_scheduled_messages_appear_in_their_session(answers: Desk) -> None:
    due = moment(30)
    messages = [ServiceBusMessage(body, session_id="due") for body in "ab"]
    await answers.sender.schedule_messages(messages, due)
    [receiver] = await accept(answers, "due")
    waiting = asyncio.create_task(one(receiver))
    await answers.bus.advance(30)
    first, second = await waiting, await one(receiver)
    assert [str(first), str(second)] == ["a", "b"]
    assert first.scheduled_enqueue_time_utc == first.enqueued_time_utc == due
    await asyncio.gather(receiver.complete_message(first), receiver.complete_message(second))


async def test_dead_letters_of_sessions_need_no_session(answers: Desk) -> None:
    refused = answers.client.get_queue_receiver("plain", session_id="s")
    with pytest.raises(ValueError, match="can not be specified simultaneously"):
        answers.client.get_queue_receiver("answers", session_id="s", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
    assert isinstance(await answers.refusal(refused), ServiceBusError)


# --------------------------------------------------------------------------- any session


async def test_any_session_is_one_that_nobody_holds(answers: Desk) -> None:
    async with answers.client.get_queue_sender("any") as sender:
        await sender.send_messages([ServiceBusMessage(name, session_id=name) for name in ("a", "b")])
        [first] = await accept(answers, "a", queue="any")
        second = receiver_of(answers, NEXT_AVAILABLE_SESSION, queue="any", max_wait_time=SOON)
        await answers.open(second)
        assert second.session.session_id == "b"
        third = receiver_of(answers, NEXT_AVAILABLE_SESSION, queue="any", max_wait_time=SOON)
        opening = asyncio.create_task(answers.open(third))
        await eventually(lambda: answers.bus.waiting_for_session("any") > 0)
        await first.close()
        await opening
        assert (third.session.session_id, str(await one(third))) == ("a", "a")
        await second.complete_message(await one(second))


async def test_waiting_for_any_session_ends_after_the_time_that_was_asked_for_or_65_seconds(answers: Desk) -> None:
    def waiting() -> int:
        return answers.bus.waiting_for_session("many")

    short = receiver_of(answers, NEXT_AVAILABLE_SESSION, queue="many", max_wait_time=10)
    usual = receiver_of(answers, NEXT_AVAILABLE_SESSION, queue="many")
    refusals = [asyncio.create_task(answers.refusal(receiver)) for receiver in (short, usual)]
    await eventually(lambda: waiting() == 2)
    await answers.bus.advance(9.5)
    assert waiting() == 2
    await answers.bus.advance(0.5)
    await eventually(lambda: waiting() == 1)
    await answers.bus.advance(54)
    assert waiting() == 1
    await answers.bus.advance(1)
    for error in await asyncio.gather(*refusals):
        assert isinstance(error, OperationTimeoutError)
        assert "use max_wait_time on the ServiceBusReceiver" in str(error)


# --------------------------------------------------------------------------- listing


async def test_sessions_are_listed_over_pages_and_by_the_time_their_state_changed(answers: Desk) -> None:
    names = [f"s{number:03}" for number in range(120)]
    async with answers.client.get_queue_sender("many") as sender:
        await sender.send_messages([ServiceBusMessage("x", session_id=name) for name in names])
    since = moment(-1)
    await answers.bus.advance(100)
    changed, emptied = await accept(answers, "s007", "s008", queue="many")
    await changed.session.set_state("changed")
    await emptied.complete_message(await one(emptied))

    async def listed(**options: Any) -> list[str]:
        return [name async for name in answers.client.list_queue_sessions("many", **options)]

    everything, after, none = await asyncio.gather(
        listed(), listed(state_updated_after=since), listed(state_updated_after=moment(1), timeout=5)
    )
    assert sorted(everything) == [name for name in names if name != "s008"]
    assert (after, none) == (["s007"], [])
    with pytest.raises(ValueError, match="greater than 0"):
        answers.client.list_queue_sessions("many", timeout=0)
    answers.bus.purge("many")


# --------------------------------------------------------------------------- losing a session


async def test_after_the_lock_is_lost_everything_says_so(answers: Desk) -> None:
    names = [f"lost-{number}" for number in range(10)]
    for name in names:
        await say(answers, name, "held", "waiting")
    receivers = await accept(answers, *names)
    held = await asyncio.gather(*map(one, receivers))
    await answers.bus.advance(60)
    calls = [
        receivers[0].complete_message(held[0]),
        receivers[1].abandon_message(held[1]),
        receivers[2].defer_message(held[2]),
        receivers[3].dead_letter_message(held[3]),
        receivers[4].receive_messages(1, max_wait_time=SOON),
        receivers[5].receive_deferred_messages([1]),
        receivers[6].session.get_state(),
        receivers[7].session.set_state("x"),
        receivers[8].session.renew_lock(),
        receivers[9].peek_messages(),
    ]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[:9]] == [SessionLockLostError] * 9
    for receiver, message in zip(receivers[:9], held, strict=False):
        with pytest.raises(SessionLockLostError):
            await receiver.complete_message(message)
        with pytest.raises(SessionLockLostError):
            await receiver.receive_messages(1, max_wait_time=SOON)
    [winner] = await accept(answers, "lost-0")
    again, waiting = await one(winner), await one(winner)
    assert [(str(again), again.delivery_count), (str(waiting), waiting.delivery_count)] == [("held", 1), ("waiting", 0)]
    assert answers.bus.counts("answers").dead_lettered == 0


async def test_a_session_that_was_lost_can_be_taken_by_somebody_else_at_once(answers: Desk) -> None:
    await say(answers, "passed on", "x")
    [loser] = await accept(answers, "passed on")
    held = await one(loser)
    await answers.bus.advance(60)
    [winner] = await accept(answers, "passed on")
    got = await one(winner)
    assert (str(got), got.delivery_count) == ("x", 1)
    with pytest.raises(SessionLockLostError):
        await loser.complete_message(held)
    await winner.complete_message(got)
    assert winner.session.locked_until_utc == moment(60)


async def test_a_renewed_session_keeps_its_messages(answers: Desk) -> None:
    await say(answers, "kept on", "x")
    [receiver] = await accept(answers, "kept on")
    message = await one(receiver)
    for _ in range(3):
        await answers.bus.advance(50)
        await receiver.session.renew_lock()
    await receiver.complete_message(message)
    assert message.delivery_count == 0
    assert receiver.session.locked_until_utc == moment() + timedelta(seconds=60)
