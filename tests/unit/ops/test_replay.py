import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.captured_message import CapturedMessage
from ops.commands import replay as resend
from ops.errors import CommandError
from ops.inline import received
from ops.replay_message import REPLAY_FROM, REPLAY_TRACE, Work, replayed, run_number, work_of
from ops.target import Target
from services.gateway.ask_consumer import origin
from shared.access.callers import Callers
from shared.bus import port
from shared.bus.port import Outgoing, Received
from shared.contracts.expired import ReplayRequest
from shared.contracts.ids import MAX_ID, request_id
from shared.contracts.request import ReplyTo, Request
from shared.contracts.retrieve import RetrievePassages
from shared.redis import FailFastRedis, RedisUnavailable
from tests.support.memory_bus import MemoryBus

NOW = datetime(2026, 11, 22, 11, 5, tzinfo=UTC)
THEN = NOW - timedelta(days=3)
CALLERS = Callers.read(Path(__file__).parents[3] / "examples/onboarding/callers.yaml")
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
OLD_MARKS = {
    port.ATTEMPT: 5,
    port.ANSWER_BY: THEN.isoformat(),
    port.ENQUEUED_AT: THEN.isoformat(),
    port.TRACEPARENT: TRACE,
    port.DIAGNOSTIC_ID: TRACE,
    "DeadLetterReason": "Crashed",
    "colour": "blue",
}


def request(**more: Any) -> Request:
    given: dict[str, Any] = {
        "request_id": "r1",
        "tenant": "tessolund",
        "caller": "welcome-app",
        "groups": ("employees",),
        "use_case": "onboarding",
        "question": "How many days?",
        "accepted_at": THEN,
        "answer_by": THEN + timedelta(seconds=90),
        "correlation_id": "c1",
        "reply_to": ReplyTo(queue="answers", session="s1"),
    }
    return Request(**{**given, **more})


def stage(**more: Any) -> CapturedMessage:
    body = json.loads(RetrievePassages(request=request()).encode()) | {"from_the_future": 1}
    given: dict[str, Any] = {
        "queue": "dead",
        "body": json.dumps(body).encode(),
        "subject": "retrieve.v1",
        "message_id": "r1/retrieve/r4",
        "correlation_id": "c1",
        "sequence_number": 7,
        "dead_letter_source": "retrieve",
        "properties": OLD_MARKS,
    }
    return CapturedMessage(Received(**{**given, **more}), "bus.example", NOW, dead_letters=True)


def late(kind: str = "expired.v1", **more: Any) -> CapturedMessage:
    body: dict[str, Any] = {"request": request(**more).model_dump(mode="json")}
    if kind == "expired.v1":
        body |= {"died_on": "generate", "reason": "DeadlineExceeded"}
    message = Received("dead", json.dumps(body).encode(), kind, "r1/expired", "c1", sequence_number=9)
    return CapturedMessage(message, "bus.example", NOW, dead_letters=True)


def ask(**more: Any) -> CapturedMessage:
    given: dict[str, Any] = {
        "queue": "dead",
        "body": b'{"question": "How many days?"}',
        "subject": "ask.v1",
        "message_id": "mine-1",
        "correlation_id": "c1",
        "reply_to": "answers",
        "reply_to_session_id": "s1",
        "time_to_live": timedelta(seconds=30),
        "content_type": "application/json",
        "dead_letter_source": "ask",
        "properties": OLD_MARKS,
    }
    return CapturedMessage(Received(**{**given, **more}), "bus.example", NOW, dead_letters=True)


def replay(captured: CapturedMessage, number: int = 1, *, rerun: bool = False) -> Outgoing:
    return replayed(captured, work_of(captured, CALLERS), number, rerun=rerun, now=NOW)


def test_a_stage_is_replayed_on_its_own_queue_under_an_id_of_its_own() -> None:
    sent = replay(stage(), 2)
    assert (sent.queue, sent.message_id, sent.correlation_id) == ("retrieve", "r1/retrieve/p2", "c1")
    assert sent.time_to_live == timedelta(seconds=90)


@pytest.mark.parametrize("kind", ["expired.v1", "replay.v1"])
def test_an_expired_request_is_replayed_from_the_gateway(kind: str) -> None:
    sent = replay(late(kind), 2, rerun=True)
    assert (sent.queue, sent.subject, sent.message_id) == ("outcomes", "replay.v1", "r1/replay/p2")
    assert sent.time_to_live == timedelta(seconds=90)
    asked = ReplayRequest.decode(sent.body).request
    assert asked == request(run="p2", rerun=True)
    assert work_of(late(kind), CALLERS).ended


def test_the_replay_of_a_late_rerun_is_the_next_run() -> None:
    assert work_of(late(run="p4", rerun=True), CALLERS).earlier == 4


def test_the_sentinel_of_the_original_is_not_the_replays() -> None:
    captured = stage(body=RetrievePassages(request=request(sentinel=12)).encode())
    assert RetrievePassages.decode(replay(captured).body).request.sentinel is None


def test_everything_that_follows_from_a_replay_is_named_so() -> None:
    sent = replay(stage(), 2, rerun=True)
    task = RetrievePassages.decode(sent.body)
    assert (task.request.run, task.request.rerun) == ("p2", True)
    assert task.request.answer_by == NOW + timedelta(seconds=90)


def test_fields_that_this_version_does_not_know_arrive_too() -> None:
    assert json.loads(replay(stage()).body)["from_the_future"] == 1


def test_a_replayed_ask_is_the_same_request() -> None:
    sent = replay(ask())
    again = received(sent)
    assert origin(again) == "mine-1"
    assert sent.message_id == request_id("tessolund", "welcome-app", "mine-1") + "/ask/p1"
    assert (sent.queue, sent.body) == ("ask", ask().message.body)
    assert (sent.reply_to, sent.reply_to_session_id) == ("answers", "s1")


def test_the_replay_of_a_replay_is_still_the_same_request() -> None:
    first = received(replay(ask(), 1))
    captured = CapturedMessage(first, "bus.example", NOW)
    work = work_of(captured, CALLERS)
    second = replayed(captured, work, work.earlier + 1, rerun=False, now=NOW)
    assert second.message_id == str(first.message_id).replace("/p1", "/p2")
    assert second.properties[port.ORIGIN] == "mine-1"


def test_a_replay_starts_again_and_records_its_original() -> None:
    properties = replay(stage()).properties
    assert properties["colour"] == "blue"
    assert properties.keys().isdisjoint({port.ATTEMPT, port.ANSWER_BY, port.ENQUEUED_AT, "DeadLetterReason"})
    assert properties[port.REPLAY_OF] == "r1/retrieve/r4"
    assert properties[REPLAY_FROM] == "bus.example/dead/$DeadLetterQueue#7"
    assert properties[REPLAY_TRACE] == TRACE
    assert properties[port.TRACEPARENT] == properties[port.DIAGNOSTIC_ID] != TRACE


@pytest.mark.parametrize(
    ("life", "expected"),
    [(None, 60), (timedelta(seconds=5), 60), (timedelta(minutes=4), 240), (timedelta(days=14), 60)],
)
def test_a_replay_has_as_long_as_the_original_had_and_at_least_a_minute(life: timedelta | None, expected: int) -> None:
    assert replay(ask(time_to_live=life)).time_to_live == timedelta(seconds=expected)


def test_a_storage_event_is_sent_again() -> None:
    event = CapturedMessage(Received("blob-events", b"{}", message_id="e" * 128), "bus.example", NOW)
    assert replay(event).queue == "blob-events"
    assert len(replay(event).message_id or "") <= MAX_ID
    assert replay(event, 1).message_id != replay(event, 2).message_id


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"subject": "answer.v1"}, "is an outcome"),
        ({"subject": "deadline.v1"}, "is an outcome"),
        ({"subject": "ask.v9"}, "ask does not accept ask.v9"),
        ({"dead_letter_source": None}, "dead-letter source is unknown"),
        ({"dead_letter_source": "ask-nobody"}, "callers.yaml has no queue ask-nobody"),
        ({"subject": "retrieve.v1"}, "cannot be replayed: not a valid retrieve.v1"),
    ],
)
def test_a_message_that_is_not_work_is_refused(more: dict[str, Any], told: str) -> None:
    with pytest.raises(CommandError, match=told):
        work_of(ask(**more), CALLERS)


def test_a_queue_can_be_named_for_a_message_whose_own_is_unknown() -> None:
    assert work_of(ask(dead_letter_source=None), CALLERS, "ask-hr").queue == "ask-hr"


@given(st.integers(1, 10**15))
def test_every_replay_has_another_id_that_the_broker_takes(number: int) -> None:
    ids = {replay(captured, n).message_id or "" for captured in (stage(), ask()) for n in (number, number + 1)}
    assert len(ids) == 4
    assert all(len(message_id) <= MAX_ID for message_id in ids)


@pytest.mark.parametrize(("run", "number"), [("", 0), ("p1", 1), ("p12", 12), ("p", 0), ("r1", 0), ("p1x", 0)])
def test_a_run_has_a_number(run: str, number: int) -> None:
    assert run_number(run) == number


class TestNumbers:
    WORK = Work("retrieve", "r1", "retrieve")

    async def test_replays_of_one_request_are_counted_whatever_their_stage(self, redis: FailFastRedis) -> None:
        ask = Work("ask", "r1", "ask")
        numbers = [await resend.next_number(redis, work) for work in (self.WORK, ask, self.WORK)]
        assert numbers == [1, 2, 3]
        assert await resend.next_number(redis, Work("ask", "r2", "ask")) == 1

    async def test_the_number_is_above_that_of_a_captured_replay(self, redis: FailFastRedis) -> None:
        assert await resend.next_number(redis, Work("ask", "r1", "ask", earlier=7)) == 8

    async def test_without_redis_the_clock_counts(self) -> None:
        nowhere = FailFastRedis("redis://127.0.0.1:9/0")
        with pytest.raises(RedisUnavailable):
            await nowhere.run(lambda client: client.ping())
        assert await resend.next_number(nowhere, self.WORK) > 1_000_000_000_000
        await nowhere.close()


class TestTarget:
    HERE = Target({"RAGBUS_SERVICEBUS_CONNECTION_STRING": "Endpoint=sb://127.0.0.1:5672;SharedAccessKey=x"}, "here")
    AZURE = Target({"RAGBUS_SERVICEBUS_NAMESPACE": "prod.servicebus.windows.net"}, "the environment")

    def test_this_machine_needs_no_permission(self) -> None:
        resend.check_target(self.HERE, "local", allowed=False)

    @pytest.mark.parametrize(
        ("to", "allowed"), [("local", False), ("local", True), ("prod", False), ("other", True), ("", True)]
    )
    def test_azure_is_refused_unless_named_and_allowed(self, to: str, allowed: bool) -> None:
        with pytest.raises(CommandError, match="yes-send-to-azure"):
            resend.check_target(self.AZURE, to, allowed=allowed)

    @pytest.mark.parametrize("to", ["prod", "prod.servicebus.windows.net"])
    def test_azure_is_sent_to_when_named_and_allowed(self, to: str) -> None:
        resend.check_target(self.AZURE, to, allowed=True)

    def test_naming_azure_does_not_help_when_the_target_is_this_machine(self) -> None:
        with pytest.raises(CommandError, match="not prod"):
            resend.check_target(self.HERE, "prod", allowed=True)


async def test_the_bus_takes_a_replay_twice_in_a_row() -> None:
    bus = MemoryBus("retrieve")
    for number in (1, 2):
        await bus.send(replay(stage(), number))
    assert [message.message_id for message in await bus.peek("retrieve")] == ["r1/retrieve/p1", "r1/retrieve/p2"]
