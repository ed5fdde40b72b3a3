"""Time: alarms ring in order, once, and cost nothing when they do not matter any more."""

from functools import partial

from servicebus_local.bus.clock import DueTimes, ManualClock, Timers


def test_alarms_ring_in_the_order_of_their_times() -> None:
    clock, rung = ManualClock(0), list[str]()
    timers = Timers(clock)
    timers.at(2, lambda: rung.append("two"))
    timers.at(1, lambda: rung.append("one"))
    timers.at(2, lambda: rung.append("two again"))
    timers.at(3, lambda: rung.append("three"))
    clock.now = 2
    timers.fire()
    assert rung == ["one", "two", "two again"]
    assert timers.next_due() == 3


def test_a_cancelled_alarm_does_not_ring() -> None:
    clock, rung = ManualClock(0), list[str]()
    timers = Timers(clock)
    timers.at(1, lambda: rung.append("no")).cancel()
    assert timers.next_due() is None
    timers.at(2, lambda: rung.append("yes"))
    timers.advance(clock, 5)
    assert rung == ["yes"]


def test_cancelled_alarms_are_forgotten_when_they_outweigh_the_living() -> None:
    clock, rung = ManualClock(0), list[int]()
    timers = Timers(clock)
    alarms = [timers.at(1e9 + number, partial(rung.append, number)) for number in range(10_000)]
    for alarm in alarms[1:]:
        alarm.cancel()
    assert len(timers) < 3000
    assert timers.next_due() == 1e9
    timers.advance(clock, 2e9)
    assert rung == [0]
    assert len(timers) == 0


def test_the_living_are_kept_in_order_whenever_the_cancelled_are_swept() -> None:
    clock, rung = ManualClock(0), list[int]()
    timers = Timers(clock)
    alarms = {number: timers.at(number, partial(rung.append, number)) for number in range(10_000)}
    timers.advance(clock, 99)
    for number, alarm in alarms.items():
        if number % 7:
            alarm.cancel()
            alarm.cancel()  # once is enough
    timers.advance(clock, 20_000)
    assert rung == [*range(100), *range(105, 10_000, 7)]


def test_each_alarm_sees_its_own_moment() -> None:
    clock, seen = ManualClock(0), list[float]()
    timers = Timers(clock)
    for due in (3, 1, 2):
        timers.at(due, lambda: seen.append(clock()))
    timers.advance(clock, 10)
    assert seen == [1, 2, 3]
    assert clock() == 10


def test_an_alarm_may_set_another_on_the_way() -> None:
    clock, seen = ManualClock(0), list[float]()
    timers = Timers(clock)

    def again() -> None:
        seen.append(clock())
        timers.at(clock() + 2, again)

    timers.at(1, again)
    timers.advance(clock, 6)
    assert seen == [1, 3, 5]


def test_on_change_is_called_when_the_first_alarm_changes() -> None:
    changes: list[float | None] = []
    timers = Timers(ManualClock(0))
    timers.on_change = lambda: changes.append(timers.next_due())
    timers.at(5, lambda: None)
    timers.at(9, lambda: None)
    timers.at(1, lambda: None)
    assert changes == [5, 1]


def test_due_times_use_one_alarm_and_skip_the_dead() -> None:
    clock, alive, due = ManualClock(0), {1, 2, 3}, list[int]()
    timers = Timers(clock)
    times = DueTimes(timers, alive.__contains__, due.append)
    for number, moment in ((1, 5), (2, 3), (3, 9)):
        times.add(moment, number)
    alive.discard(1)
    timers.advance(clock, 20)
    assert due == [2, 3]
    assert timers.next_due() is None


def test_due_times_forget_the_dead_before_they_are_due() -> None:
    alive: set[int] = set()
    times = DueTimes(Timers(ManualClock(0)), alive.__contains__, lambda _number: None)
    for number in range(10_000):
        times.add(1e9, number)
    assert len(times) <= 1024
