"""The poison corpus through the whole system: nothing crashes, nothing loops, and every caller hears one outcome."""

import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient
from servicebus_local.record import Event, check

from shared.contracts.ids import request_id
from shared.contracts.outcome import Code, Outcome
from shared.contracts.queues import CORE
from shared.errors import Reason
from tests.poison.corpus import ANSWERED, ASKS, QUESTIONS, SESSION, Poison, ask, odd
from tests.poison.internal import STRAYS, Stray
from tests.poison.messages import annotated, post, stray
from tests.support.waiting import until
from tests.system.conftest import App

pytestmark = pytest.mark.asyncio(loop_scope="session")

WORKERS = ("gateway", "retriever", "generator", "indexer")
QUEUES = ("ask", *(queue.name for queue in CORE))


@dataclass(frozen=True, slots=True)
class Story:
    """What became of everything that was sent."""

    answers: Mapping[str, Sequence[Code]]
    """The codes that were told, by request."""
    events: Sequence[Event]
    """The broker's record."""
    archived: Sequence[ServiceBusReceivedMessage]
    """What came into `dead/$DeadLetterQueue` meanwhile; other tests' dead letters lie there too."""
    pids: Mapping[str, int]
    """Of the workers, before."""
    logged: Mapping[Path, int]
    """The sizes of the logs, before."""

    def of(self, queue: str, message_id: str) -> list[Event]:
        """What happened to a message on a queue."""
        return [event for event in self.events if (event.entity, str(event.message_id)) == (queue, message_id)]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def story(indexed: App) -> AsyncIterator[Story]:
    """Everything sent at once, and looked at when nothing is left to be done; nothing of other tests is, before."""
    await until(lambda: nothing_left(indexed))
    logged = {path: path.stat().st_size for path in indexed.stack.folder.logs.glob("*.log")}
    pids = {name: indexed.stack.process(name).pid for name in WORKERS}
    earlier = {dead.sequence_number for dead in await indexed.dead()}
    (await indexed.control.post(f"{indexed.stack.admin_url}/deliveries")).raise_for_status()
    async with ServiceBusClient.from_connection_string(indexed.stack.connection_string) as client:
        await post(client, "ask", map(annotated, ASKS))
        for queue in {each.queue for each in STRAYS}:
            await post(client, queue, [stray(each) for each in STRAYS if each.queue == queue])
        await until(lambda: nothing_left(indexed))
        answers: defaultdict[str, list[Code]] = defaultdict(list)
        for session in {SESSION, *filter(None, map(session_of, ASKS))}:
            for answer in await everything(client, session):
                answers[answer["request_id"]].append(Code(answer["code"]))
    archived = [dead for dead in await indexed.dead() if dead.sequence_number not in earlier]
    yield Story(answers, await events(indexed), archived, pids, logged)


async def test_every_poison_has_exactly_the_outcome_it_should(story: Story) -> None:
    told = {poison.name: story.answers.get(request_of(poison), []) for poison in ASKS}
    wrong = {
        poison.name: codes
        for poison in ASKS
        if len(codes := told[poison.name]) != bool(poison.told) or not poison.told.issuperset(codes)
    }
    assert not wrong
    answered = [
        codes for poison in QUESTIONS for codes in [story.answers[request_of(poison)]] if set(codes) <= ANSWERED
    ]
    assert len(answered) > len(QUESTIONS) / 2


async def test_every_unreadable_ask_is_dead_lettered_at_its_first_delivery_with_its_reason(story: Story) -> None:
    wrong = {
        poison.name: end for poison in ASKS if (end := ends(story, "ask", identity(poison))) != expected_of(poison)
    }
    assert not wrong


async def test_what_was_dead_lettered_is_archived_with_a_description(story: Story) -> None:
    buried = Counter(event.kind for event in story.events if event.entity == "dead/$DeadLetterQueue")
    unreadable = sum(poison.reason is not None for poison in ASKS)
    on_our_queues = sum(each.reason is not None and each.queue != "blob-events" for each in STRAYS)
    assert buried == {"dead-letter-arrived": unreadable + on_our_queues}
    assert len(story.archived) == unreadable + on_our_queues
    assert {dead.dead_letter_source for dead in story.archived} <= {*QUEUES, None}
    assert all(dead.dead_letter_reason and dead.dead_letter_error_description for dead in story.archived)


@pytest.mark.parametrize("queue", [queue.name for queue in CORE])
async def test_garbage_on_our_own_queues_neither_crashes_nor_loops(story: Story, queue: str) -> None:
    ours = [each for each in STRAYS if each.queue == queue]
    wrong = {each.name: end for each in ours if (end := ends(story, queue, each.message_id)) != expected_end(each)}
    assert ours
    assert not wrong
    told = {each.name: story.answers.get(each.request, []) for each in ours}
    assert told == {each.name: [each.told] if each.told else [] for each in ours}


async def test_nothing_is_delivered_twice_for_it(story: Story) -> None:
    counts = Counter(event.delivery_count for event in story.events if event.kind == "delivered")
    assert counts.keys() == {0}
    # Sentinels of earlier tests may lie there when the record begins.
    assert check(story.events, partial=True) == []
    bugs = [event for event in story.events if event.reason == Reason.CRASHED]
    assert not bugs


async def test_an_ask_with_a_second_to_live_has_one_outcome_in_time(story: Story, app: App) -> None:
    assert story.answers
    session = await app.post(ask(), time_to_live=timedelta(seconds=1))
    [answer] = await app.answers(session, more=2)
    assert answer["outcome"] in {Outcome.ANSWERED, Outcome.NO_ANSWER, Outcome.EXPIRED}


async def test_an_ask_with_a_millisecond_to_live_has_one_outcome(story: Story, app: App) -> None:
    """It expires in `ask`, and what is left of it in `dead` may do so again before the gateway has looked."""
    assert story.answers
    short = [odd(f"{life} ms to live", ask(), Code.DEADLINE_EXCEEDED, time_to_live=life) for life in range(1, 6)]
    told: list[dict[str, Any]] = []
    async with ServiceBusClient.from_connection_string(app.stack.connection_string) as client:
        await post(client, "ask", map(annotated, short))

        async def all_told() -> bool:
            told.extend(await everything(client, SESSION))
            return len(told) >= len(short)

        await until(all_told)
        told.extend(await everything(client, SESSION))
    requests = Counter(answer["request_id"] for answer in told)
    assert requests == Counter({request_of(poison): 1 for poison in short})
    assert {answer["outcome"] for answer in told} <= {Outcome.ANSWERED, Outcome.NO_ANSWER, Outcome.EXPIRED}


async def test_the_workers_live_on_and_answer(story: Story, app: App) -> None:
    answer = await app.ask("What is the notice period during probation for staff?", message_id="after the poison")
    assert answer["outcome"] == "answered"
    assert {name: app.stack.process(name).pid for name in WORKERS} == story.pids
    for name in WORKERS:
        assert app.stack.process(name).alive
        assert (await app.control.get(f"{app.stack.health_url(name)}/readyz")).status_code == 200
    logs = b"".join(path.read_bytes()[before:] for path, before in story.logged.items())
    for word in ("worker.bug", "Traceback", "UnicodeDecodeError"):
        assert word.encode() not in logs


def identity(poison: Poison) -> str:
    """The id that the broker's record shows; of a UUID it shows the bytes."""
    known = poison.message_id
    return str(known.bytes if isinstance(known, UUID) else known)


def request_of(poison: Poison) -> str:
    """The id of the request that it is taken for."""
    return request_id("tessolund", "welcome-app", poison.identity)


def session_of(poison: Poison) -> str:
    """The session that its outcome comes in."""
    return str(poison.native.get("reply_to_group_id", SESSION)) or request_of(poison)


def ends(story: Story, queue: str, message_id: str) -> list[tuple[str, str | None, int | None]]:
    """How a message ended on a queue: settled how, why, and after how many failed deliveries."""
    last = ("completed", "dead-lettered", "expired")
    return [(e.kind, e.reason, e.delivery_count) for e in story.of(queue, message_id) if e.kind in last]


def expected_of(poison: Poison) -> list[tuple[str, str | None, int | None]]:
    return [("dead-lettered", poison.reason.value, 0) if poison.reason else ("completed", None, 0)]


def expected_end(each: Stray) -> list[tuple[str, str | None, int | None]]:
    return [("dead-lettered", str(each.reason), 0) if each.reason else ("completed", None, 0)]


async def everything(client: ServiceBusClient, session: str) -> list[dict[str, Any]]:
    """Every outcome that lies in a session; nothing more comes."""
    found: list[dict[str, Any]] = []
    async with client.get_queue_receiver("answers", session_id=session) as receiver:
        while got := await receiver.receive_messages(max_message_count=100, max_wait_time=1):
            found += [json.loads(str(message)) for message in got]
            for message in got:
                await receiver.complete_message(message)
    return found


async def nothing_left(app: App) -> bool:
    """Whether every queue is empty, but for the sentinels of deadlines to come."""
    stats = (await app.control.get(f"{app.stack.admin_url}/stats")).raise_for_status().json()
    work = sum(stats[queue][state] for queue in QUEUES for state in ("active", "locked"))
    scheduled = sum(stats[queue]["scheduled"] for queue in QUEUES if queue != "outcomes")
    return bool(work + scheduled == 0)


async def events(app: App) -> list[Event]:
    """What the broker recorded."""
    lines = (await app.control.get(f"{app.stack.admin_url}/deliveries")).raise_for_status().text.splitlines()
    return [Event.from_json(json.loads(line)) for line in lines]
