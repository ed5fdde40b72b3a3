"""The topology has the properties that the promises need."""

from datetime import timedelta
from pathlib import Path

import pytest

from ops.reference import examples
from ops.reference.schemas import MESSAGES
from shared.access.callers import Callers
from shared.access.use_cases import read_use_cases
from shared.contracts.envelope import SENTINEL_DELAY
from shared.contracts.queues import (
    BLOB_EVENTS,
    DEAD,
    GENERATE,
    LOCK,
    OUTCOMES,
    RETRIEVE,
    SKEW,
    Queue,
    longest_deadline,
    shortest_window,
    topology,
    within_emulator,
)

ROOT = Path(__file__).resolve().parents[2]
CALLERS = Callers.read(ROOT / examples.CALLERS)
QUEUES = {queue.name: queue for queue in examples.queues_of(CALLERS)}
WORKERS = {"gateway", "retriever", "generator", "indexer"}
ON_THE_WAY = [queue for queue in QUEUES.values() if queue.consumer in WORKERS and queue.name not in (DEAD, BLOB_EVENTS)]


def test_every_queue_has_one_name_and_a_known_consumer() -> None:
    assert len(QUEUES) == len(examples.queues_of(CALLERS))
    assert {queue.consumer for queue in QUEUES.values()} == {*WORKERS, "caller"}


def test_every_message_has_a_queue_and_every_queue_known_messages() -> None:
    carried = {kind for queue in QUEUES.values() for kind in queue.carries}
    assert carried == {message.kind for message in MESSAGES} | {"storage event"}


@pytest.mark.parametrize("queue", ON_THE_WAY, ids=lambda queue: queue.name)
def test_a_dead_letter_of_a_request_is_always_forwarded(queue: Queue) -> None:
    assert queue.forward_dead_letters_to == DEAD
    assert queue.dead_letter_on_expiry
    assert set(queue.carries) <= set(QUEUES[DEAD].carries)


def test_dead_letters_are_archived_in_place() -> None:
    assert QUEUES[DEAD].forward_dead_letters_to is None
    assert QUEUES[DEAD].duplicate_window is None


def test_event_grid_can_deliver_to_its_queue() -> None:
    """Queues with sessions are no destination for it, and its redeliveries carry the same id."""
    assert not QUEUES[BLOB_EVENTS].sessions
    assert QUEUES[BLOB_EVENTS].duplicate_window is not None


@pytest.mark.parametrize("name", [name for caller in CALLERS.callers for name in caller.reply_queues])
def test_an_outcome_that_is_not_fetched_is_dropped(name: str) -> None:
    queue = QUEUES[name]
    assert queue.sessions
    assert not queue.dead_letter_on_expiry
    assert queue.forward_dead_letters_to is None
    assert queue.duplicate_window is not None


@pytest.mark.parametrize("name", [RETRIEVE, GENERATE, OUTCOMES])
def test_workers_share_a_queue_without_sessions(name: str) -> None:
    assert not QUEUES[name].sessions


@pytest.mark.parametrize(
    ("queues", "folder"),
    [
        (tuple(QUEUES.values()), examples.EXAMPLE),
        (tuple(QUEUES.values()), examples.KUBERNETES),
        (tuple(map(within_emulator, QUEUES.values())), examples.COMPOSE),
    ],
    ids=["laptop", "kubernetes", "compose"],
)
def test_a_second_outcome_meets_the_first_ones_id(queues: tuple[Queue, ...], folder: str) -> None:
    window = shortest_window(queues)
    for use_case in read_use_cases(ROOT / folder / "use_cases").values():
        longest = timedelta(seconds=use_case.deadline.longest)
        assert window >= longest + LOCK + SKEW
        assert longest <= longest_deadline(window)
        assert use_case.deadline.default <= use_case.deadline.longest


@pytest.mark.parametrize("queue", [QUEUES[name] for name in CALLERS.ingresses()], ids=lambda queue: queue.name)
def test_an_ingress_queue_drops_an_sdk_s_own_retries_and_no_later_repeat(queue: Queue) -> None:
    """What it drops, it drops without a word; the windows behind it, which guard outcomes, stay as they are."""
    assert queue.duplicate_window is not None
    assert timedelta(seconds=20) <= queue.duplicate_window <= timedelta(minutes=1)
    assert shortest_window(QUEUES.values()) >= timedelta(minutes=10)


def test_expired_is_sent_in_time() -> None:
    assert timedelta(0) < SENTINEL_DELAY <= timedelta(seconds=15)


def test_locks_can_be_renewed_before_they_end() -> None:
    """A third of a lock must be longer than a renewal may take (SETTLE_TIMEOUT of the adapter, 10 s)."""
    assert all(queue.lock / 3 >= timedelta(seconds=10) for queue in QUEUES.values())


def test_a_queue_that_is_named_twice_exists_once() -> None:
    doubled = topology(["ask", "ask"], ["answers", "answers", OUTCOMES])
    assert [queue.name for queue in doubled].count("ask") == 1
    assert [queue.name for queue in doubled].count("answers") == 1
    assert [queue.name for queue in doubled].count(OUTCOMES) == 1
