"""The corners of sessions: what they remember, who may do what, and the exact error when they are lost."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
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
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from servicebus_local.bus.sessions import GRACE
from servicebus_local.testing import LocalBus, ManualClock
from tests.protocol.queue_client import SOON, QueueClient, client_of, eventually, topology

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLOCK = ManualClock(time() + 3600)
SESSIONS = {"RequiresSession": True, "LockDuration": "PT1M", "MaxDeliveryCount": 3}
TOPOLOGY = topology(answers=SESSIONS, many=SESSIONS, any=SESSIONS, plain={})
OPEN_FROM_THE_START = ("stateful", "tokens", "stubborn", "left", "right", "seen", "mine", "other")


class SessionQueue(QueueClient):
    """A queue_client at `answers` where time stands still, and sessions that are open from the start."""

    async def open_sessions(self) -> None:
        deletes = ServiceBusReceiveMode.RECEIVE_AND_DELETE
        self.held = {name: receiver_of(self, name) for name in OPEN_FROM_THE_START}
        self.held["taken"] = receiver_of(self, "taken", receive_mode=deletes)
        self.held["walked"] = receiver_of(self, "walked", max_wait_time=0.2)
        await asyncio.gather(self.open(self.sender), self.open(self.dead_letters), *map(self.open, self.held.values()))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def answers() -> AsyncIterator[SessionQueue]:
    async with LocalBus(TOPOLOGY, clock=ManualClock(time() + 3600)) as bus, client_of(bus) as client:
        session_queue = SessionQueue(bus, client, "answers")
        try:
            await session_queue.open_sessions()
            yield session_queue
        finally:
            await session_queue.close()


class SessionBus(QueueClient):
    """A queue_client at `answers` where time is moved, and two senders more."""

    async def open_all(self) -> None:
        self.any, self.many = self.client.get_queue_sender("any"), self.client.get_queue_sender("many")
        await asyncio.gather(*map(self.open, (self.sender, self.any, self.many)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def passing() -> AsyncIterator[SessionBus]:
    async with LocalBus(TOPOLOGY, clock=CLOCK) as bus, client_of(bus) as client:
        session_bus = SessionBus(bus, client, "answers")
        try:
            await session_bus.open_all()
            yield session_bus
        finally:
            await session_bus.close()


def moment(seconds: float = 0) -> datetime:
    """A moment where time is moved."""
    return datetime.fromtimestamp(int((CLOCK.now + seconds) * 1000) / 1000, UTC)


def receiver_of(
    queue_client: QueueClient, session_id: Any, queue: str = "answers", **options: Any
) -> ServiceBusReceiver:
    return queue_client.client.get_queue_receiver(queue, session_id=session_id, **options)


async def accept(queue_client: QueueClient, *session_ids: str, **options: Any) -> list[ServiceBusReceiver]:
    """Open receivers on sessions, all at once; they are closed with the queue_client."""
    receivers = [receiver_of(queue_client, session_id, **options) for session_id in session_ids]
    await asyncio.gather(*map(queue_client.open, receivers))
    return receivers


async def say(queue_client: QueueClient, session_id: str, *bodies: str) -> None:
    await queue_client.sender.send_messages([ServiceBusMessage(body, session_id=session_id) for body in bodies])


async def one(receiver: ServiceBusReceiver) -> ServiceBusReceivedMessage:
    [message] = await receiver.receive_messages(1, max_wait_time=SOON)
    return message


# --------------------------------------------------------------------------- what a session remembers


async def test_a_state_may_be_text_or_bytes_or_nothing(answers: SessionQueue) -> None:
    session = answers.held["stateful"].session
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


async def test_a_session_knows_its_id_and_its_lock_and_keeps_its_messages(passing: SessionBus) -> None:
    await say(passing, "known", "x")
    [receiver] = await accept(passing, "known", client_identifier="clerk")
    session = receiver.session
    assert (session.session_id, session.locked_until_utc, session.auto_renew_error) == ("known", moment(60), None)
    assert receiver.client_identifier == "clerk"
    message = await one(receiver)
    for _ in range(3):
        await passing.bus.advance(50)
        assert session.locked_until_utc == moment(10)
        assert await session.renew_lock(timeout=5) == session.locked_until_utc == moment(60)
    await receiver.complete_message(message)
    assert message.delivery_count == 0


# --------------------------------------------------------------------------- messages of a session


async def test_messages_of_a_session_have_tokens_and_no_locks_of_their_own(answers: SessionQueue) -> None:
    receiver = answers.held["tokens"]
    await say(answers, "tokens", "x")
    message = await one(receiver)
    assert (message.session_id, message.locked_until_utc) == ("tokens", None)
    assert isinstance(message.lock_token, UUID)
    with pytest.raises(TypeError, match="invalid operation when working with sessions"):
        await receiver.renew_message_lock(message)
    await receiver.complete_message(message)


async def test_what_is_abandoned_comes_first_again_and_is_counted_out(answers: SessionQueue) -> None:
    receiver = answers.held["stubborn"]
    await say(answers, "stubborn", "bad", "good")
    for count in range(3):
        message = await one(receiver)
        assert (str(message), message.delivery_count) == ("bad", count)
        await receiver.abandon_message(message)
    good = await one(receiver)
    await receiver.complete_message(good)
    dead = await answers.next_dead_letter()
    assert (str(good), str(dead), dead.session_id) == ("good", "bad", "stubborn")
    assert (dead.dead_letter_reason, dead.delivery_count) == ("MaxDeliveryCountExceeded", 3)


async def test_the_locked_messages_of_one_session_hold_up_no_other(answers: SessionQueue) -> None:
    first, second = answers.held["left"], answers.held["right"]
    await say(answers, "left", "l1", "l2")
    await say(answers, "right", "r1")
    left, right = await asyncio.gather(one(first), one(second))
    assert [str(left), str(right), str(await one(first))] == ["l1", "r1", "l2"]


async def test_a_session_is_looked_into_by_its_holder_alone(answers: SessionQueue) -> None:
    await say(answers, "seen", "a", "b", "c")
    await say(answers, "unseen", "x")
    receiver = answers.held["seen"]
    await receiver.defer_message(await one(receiver))
    later = ServiceBusMessage("later", session_id="seen")
    [number] = await answers.sender.schedule_messages(later, moment(7200))
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


async def test_deferred_messages_belong_to_their_session(answers: SessionQueue) -> None:
    mine, other = answers.held["mine"], answers.held["other"]
    await say(answers, "mine", "x")
    message = await one(mine)
    await mine.defer_message(message)
    number = message.sequence_number or 0
    with pytest.raises(MessageNotFoundError):
        await other.receive_deferred_messages([number])
    [deferred] = await mine.receive_deferred_messages([number])
    assert (str(deferred), deferred.delivery_count, deferred.locked_until_utc) == ("x", 1, None)
    await mine.dead_letter_message(deferred, reason="Testing", error_description="told")
    dead = await answers.next_dead_letter()
    assert (dead.dead_letter_reason, dead.dead_letter_error_description) == ("Testing", "told")


async def test_a_session_is_received_and_deleted(answers: SessionQueue) -> None:
    await say(answers, "taken", "a", "b")
    taker = answers.held["taken"]
    got = [await one(taker) for _ in range(2)]
    assert [(str(message), message.lock_token) for message in got] == [("a", None), ("b", None)]
    with pytest.raises(ValueError, match="not supported in 'RECEIVE_AND_DELETE'"):
        await taker.complete_message(got[0])
    await taker.session.set_state("still there")
    assert await taker.session.get_state() == b"still there"
    await taker.session.set_state(None)


async def test_an_iterator_over_a_session_ends_when_nothing_comes(answers: SessionQueue) -> None:
    await say(answers, "walked", "a", "b", "c")
    receiver = answers.held["walked"]
    seen = []
    async for message in receiver:
        assert message.session_id == receiver.session.session_id == "walked"
        await receiver.complete_message(message)
        seen.append(str(message))
    assert seen == ["a", "b", "c"]


async def test_scheduled_messages_appear_in_their_session(passing: SessionBus) -> None:
    due = moment(30)
    messages = [ServiceBusMessage(body, session_id="due") for body in "ab"]
    await passing.sender.schedule_messages(messages, due)
    [receiver] = await accept(passing, "due")
    waiting = asyncio.create_task(one(receiver))
    await passing.bus.advance(30)
    first, second = await waiting, await one(receiver)
    assert [str(first), str(second)] == ["a", "b"]
    assert first.scheduled_enqueue_time_utc == first.enqueued_time_utc == due
    await asyncio.gather(receiver.complete_message(first), receiver.complete_message(second))


async def test_receivers_that_cannot_be_are_refused(answers: SessionQueue) -> None:
    with pytest.raises(ValueError, match="can not be specified simultaneously"):
        answers.client.get_queue_receiver("answers", session_id="s", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
    taken, sessionless, unwanted = await asyncio.gather(
        answers.refusal(receiver_of(answers, "taken")),
        answers.refusal(answers.client.get_queue_receiver("answers")),
        answers.refusal(receiver_of(answers, "s", queue="plain")),
    )
    assert isinstance(taken, SessionCannotBeLockedError)
    assert "'taken' cannot be accepted" in str(taken)
    assert "'answers' requires sessions" in str(sessionless)
    assert "'plain' does not require sessions" in str(unwanted)


# --------------------------------------------------------------------------- any session


async def test_the_next_available_session_is_one_without_a_holder(passing: SessionBus) -> None:
    await passing.any.send_messages([ServiceBusMessage(name, session_id=name) for name in ("a", "b")])
    [first] = await accept(passing, "a", queue="any")
    second, third = (receiver_of(passing, NEXT_AVAILABLE_SESSION, queue="any", max_wait_time=SOON) for _ in range(2))
    await passing.open(second)
    assert second.session.session_id == "b"
    opening = asyncio.create_task(passing.open(third))
    await eventually(lambda: passing.bus.waiting_for_session("any") > 0)
    await first.close()
    await opening
    assert (third.session.session_id, str(await one(third)), str(await one(second))) == ("a", "a", "b")


async def test_waiting_for_any_session_ends_after_the_time_that_was_asked_for_or_65_seconds(
    passing: SessionBus,
) -> None:
    def waiting() -> int:
        return passing.bus.waiting_for_session("many")

    short = receiver_of(passing, NEXT_AVAILABLE_SESSION, queue="many", max_wait_time=10)
    usual = receiver_of(passing, NEXT_AVAILABLE_SESSION, queue="many")
    refusals = [asyncio.create_task(passing.refusal(receiver)) for receiver in (short, usual)]
    await eventually(lambda: waiting() == 2)
    await passing.bus.advance(9.5)
    assert waiting() == 2
    await passing.bus.advance(0.5)
    await eventually(lambda: waiting() == 1)
    await passing.bus.advance(54)
    assert waiting() == 1
    await passing.bus.advance(1)
    for error in await asyncio.gather(*refusals):
        assert isinstance(error, OperationTimeoutError)
        assert "use max_wait_time on the ServiceBusReceiver" in str(error)


# --------------------------------------------------------------------------- listing


async def test_sessions_are_listed_over_pages_and_by_the_time_their_state_changed(passing: SessionBus) -> None:
    names = [f"s{number:03}" for number in range(120)]
    await passing.many.send_messages([ServiceBusMessage("x", session_id=name) for name in names])
    since = moment(-1)
    await passing.bus.advance(100)
    changed, emptied = await accept(passing, "s007", "s008", queue="many")
    await changed.session.set_state("changed")
    await emptied.complete_message(await one(emptied))

    async def listed(**options: Any) -> list[str]:
        return [name async for name in passing.client.list_queue_sessions("many", **options)]

    everything, after, none = await asyncio.gather(
        listed(), listed(state_updated_after=since), listed(state_updated_after=moment(1), timeout=5)
    )
    assert sorted(everything) == [name for name in names if name != "s008"]
    assert (after, none) == (["s007"], [])
    with pytest.raises(ValueError, match="greater than 0"):
        passing.client.list_queue_sessions("many", timeout=0)
    passing.bus.purge("many")


# --------------------------------------------------------------------------- losing a session


async def test_after_the_lock_is_lost_everything_says_so(passing: SessionBus) -> None:
    names = [f"lost-{number}" for number in range(10)]
    for name in names:
        await say(passing, name, "held", "waiting")
    receivers = await accept(passing, *names)
    held = await asyncio.gather(*map(one, receivers))
    await passing.bus.advance(60 + GRACE)
    [winner] = await accept(passing, "lost-0")
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
    assert winner.session.locked_until_utc == moment(60)
    again, waiting = await one(winner), await one(winner)
    assert [(str(again), again.delivery_count), (str(waiting), waiting.delivery_count)] == [("held", 1), ("waiting", 0)]
    assert passing.bus.counts("answers").dead_lettered == 0
