"""Who is dropped when there is no room, and how long a refusal waits: pure decisions."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.authentication import PREFIX, Slowdown, presented_key
from services.gateway.connections import Connections, Limits
from services.gateway.problems import Problem


class Peer:
    def __init__(self) -> None:
        self.dropped = False

    def drop(self) -> None:
        self.dropped = True


def connections(**limits: int) -> Connections:
    return Connections(Limits(**{"unauthenticated": 3, "per_caller": 2, "total": 6, **limits}))


def some(door: Connections, count: int, caller: str = "") -> list[Peer]:
    peers = [Peer() for _ in range(count)]
    for peer in peers:
        door.arrived(peer)
        if caller:
            assert door.begins(peer, caller)
    return peers


def dropped(peers: list[Peer]) -> list[bool]:
    return [peer.dropped for peer in peers]


def test_the_oldest_without_a_key_makes_room_for_the_next() -> None:
    door = connections()
    assert dropped(some(door, 5)) == [True, True, False, False, False]
    assert (len(door), door.dropped) == (3, 2)


def test_strangers_drop_no_caller() -> None:
    door = connections()
    callers = some(door, 2, "a") + some(door, 2, "b")
    door.rests(callers[0])
    some(door, 2)
    some(door, 20)
    assert dropped(callers) == [False] * 4


def test_an_idle_connection_makes_room_when_no_stranger_is_left() -> None:
    door = connections(total=2)
    [working], [idle] = some(door, 1, "a"), some(door, 1, "b")
    door.rests(idle)
    [stranger] = some(door, 1)
    assert dropped([working, idle, stranger]) == [False, True, False]


def test_with_everything_at_work_the_newcomer_goes() -> None:
    door = connections(total=2)
    working = some(door, 1, "a") + some(door, 1, "b")
    assert dropped(working + some(door, 1)) == [False, False, True]
    assert len(door) == 2


def test_a_caller_at_work_on_all_its_connections_gets_no_other() -> None:
    door = connections()
    first, second = some(door, 2, "a")
    [third] = some(door, 1)
    assert not door.begins(third, "a")
    assert door.begins(third, "b")
    door.rests(first)
    [fourth] = some(door, 1)
    assert door.begins(fourth, "a")
    assert dropped([first, second, third, fourth]) == [True, False, False, False]


def test_a_connection_may_change_its_caller() -> None:
    door = connections()
    [peer] = some(door, 1, "a")
    assert door.begins(peer, "b")
    some(door, 2, "a")
    door.left(peer)
    some(door, 2, "b")
    assert len(door) == 4


EVENTS = st.tuples(st.sampled_from(["arrives", "begins", "rests", "refused", "left"]), st.integers(0, 9))


@given(st.lists(EVENTS, max_size=80))
def test_the_limits_hold_whatever_happens(events: list[tuple[str, int]]) -> None:
    door = connections()
    peers: dict[int, Peer] = {}
    for event, number in events:
        peer = peers.get(number)
        if event == "arrives" and (peer is None or peer.dropped):
            peers[number] = Peer()
            door.arrived(peers[number])
        elif peer is not None and not peer.dropped:
            if event == "begins" and not door.begins(peer, "ab"[number % 2]):
                door.refused(peer)
            elif event == "rests":
                door.rests(peer)
            elif event == "refused":
                door.refused(peer)
            elif event == "left":
                door.left(peer)
                del peers[number]
        assert len(door) == sum(not each.dropped for each in peers.values()) <= 6


@pytest.mark.parametrize(("descriptors", "total", "unauthenticated"), [(1 << 20, 4096, 256), (256, 128, 64), (1, 2, 1)])
def test_connections_leave_half_of_the_descriptors_to_all_else(
    descriptors: int, total: int, unauthenticated: int
) -> None:
    limits = Limits().within(descriptors)
    assert (limits.total, limits.unauthenticated) == (total, unauthenticated)


# -- waiting


def test_refusals_are_free_at_first_and_then_wait_ever_longer_up_to_a_limit() -> None:
    slowdown = Slowdown(free=3, interval=1, longest=4)
    assert [slowdown.refused("10.0.0.1", "", 0) for _ in range(10)] == [0, 0, 0, 0, 1, 2, 3, 4, 4, 4]
    assert slowdown.refused("10.0.0.2", "", 0) == 0
    assert slowdown.refused("10.0.0.1", "", 100) == 0


def test_a_storm_is_forgotten_soon() -> None:
    slowdown = Slowdown(free=3, interval=1, longest=4)
    for _ in range(100_000):
        slowdown.refused("10.0.0.1", "", 0)
    assert slowdown.refused("10.0.0.1", "", 8) == 0


def test_keys_that_begin_alike_wait_wherever_they_come_from() -> None:
    slowdown = Slowdown(free=3, interval=1, longest=4)
    waits = [slowdown.refused(f"10.0.0.{peer}", f"{'k' * PREFIX}{peer}", 0) for peer in range(6)]
    assert waits == [0, 0, 0, 0, 1, 2]


def test_one_host_of_many_ipv6_addresses_is_one_peer() -> None:
    slowdown = Slowdown(free=0, interval=1, longest=4)
    assert [slowdown.refused(f"2001:db8::{peer}", "", 0) for peer in (1, 2, 3)] == [0, 1, 2]
    assert slowdown.refused("2001:db8:0:1::1", "", 0) == 0


@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=20)), max_size=300))
def test_the_table_does_not_grow(refusals: list[tuple[str, str]]) -> None:
    slowdown = Slowdown(size=10)
    for address, key in refusals:
        assert 0 <= slowdown.refused(address, key, 0) <= 5
        assert len(slowdown._due) <= 10


# -- the key


@given(st.lists(st.tuples(st.sampled_from([b"authorization", b"x-api-key", b"host"]), st.binary(max_size=12))))
def test_any_headers_are_a_key_or_none_or_a_problem(headers: list[tuple[bytes, bytes]]) -> None:
    with suppress(Problem):
        assert isinstance(presented_key(headers), str)
