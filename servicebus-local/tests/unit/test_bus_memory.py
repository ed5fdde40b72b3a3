"""What has left is forgotten: a queue that nobody receives from does not grow with what passed through it."""

import pytest

from servicebus_local.bus.clock import ManualClock, Timers
from servicebus_local.bus.message import Message
from servicebus_local.bus.queue import Queue
from servicebus_local.bus.ready_queue import ReadyQueue
from servicebus_local.bus.topology import QueueOptions


def test_a_lane_forgets_what_is_gone_in_front() -> None:
    ready_queue = ReadyQueue()
    for sequence in (3, 1, 2, 4):
        ready_queue.offer(sequence)
    ready_queue.forget_gone({3, 4})
    assert ready_queue.ready == [3, 4]


def test_a_lane_forgets_what_is_gone_behind_when_it_is_most_of_it() -> None:
    ready_queue = ReadyQueue()
    for sequence in range(10_000):
        ready_queue.offer(sequence)
    ready_queue.forget_gone({0, 5000, 9999})
    assert ready_queue.ready == [0, 5000, 9999]


def test_a_lane_does_not_look_for_a_few() -> None:
    ready_queue = ReadyQueue()
    for sequence in range(100):
        ready_queue.offer(sequence)
    ready_queue.forget_gone({0, 99})
    assert len(ready_queue.ready) == 100


def message() -> Message:
    return Message(b"\x00\x53\x75\xb0\x00\x00\x00\x01x")


@pytest.mark.parametrize("dead_lettering", [True, False])
def test_messages_that_expired_unread_leave_nothing(dead_lettering: bool) -> None:
    clock = ManualClock(0)
    timers = Timers(clock)
    queue = Queue("q", QueueOptions(default_time_to_live=10, dead_lettering_on_expiration=dead_lettering), timers)
    for _ in range(50):
        queue.send([message() for _ in range(100)])
        timers.advance(clock, 20)
    assert queue._ready_queue.ready == []
    assert len(queue.dead_letters.messages) == (5000 if dead_lettering else 0)


def test_messages_that_were_purged_or_deleted_leave_nothing() -> None:
    clock = ManualClock(0)
    queue = Queue("q", QueueOptions(), Timers(clock))
    queue.send([message() for _ in range(100)])
    assert queue.purge() == 100
    assert queue._ready_queue.ready == []
    kept = queue.send([message() for _ in range(100)])[40:]
    assert queue.delete_oldest(40, before=1) == 40
    assert sorted(queue._ready_queue.ready) == kept
