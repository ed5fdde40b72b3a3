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


def some(kept: Connections, count: int, caller: str = "") -> list[Peer]:
    peers = [Peer() for _ in range(count)]
    for peer in peers:
        kept.arrived(peer)
        if caller:
            assert kept.begins(peer, caller)
    return peers


def dropped(peers: list[Peer]) -> list[bool]:
    return [peer.dropped for peer in peers]


def test_the_oldest_without_a_key_makes_room_for_the_next() -> None:
    kept = connections()
    assert dropped(some(kept, 5)) == [True, True, False, False, False]
    assert (len(kept), kept.dropped) == (3, 2)


def test_connections_without_a_key_drop_no_caller() -> None:
    kept = connections()
    callers = some(kept, 2, "a") + some(kept, 2, "b")
    kept.rests(callers[0])
    some(kept, 2)
    some(kept, 20)
    assert dropped(callers) == [False] * 4


def test_an_idle_connection_makes_room_when_every_connection_has_a_key() -> None:
    kept = connections(total=2)
    [working], [idle] = some(kept, 1, "a"), some(kept, 1, "b")
    kept.rests(idle)
    [newcomer] = some(kept, 1)
    assert dropped([working, idle, newcomer]) == [False, True, False]


def test_when_all_connections_are_busy_the_new_one_is_dropped() -> None:
    kept = connections(total=2)
    working = some(kept, 1, "a") + some(kept, 1, "b")
    assert dropped(working + some(kept, 1)) == [False, False, True]
    assert len(kept) == 2


def test_a_caller_whose_connections_are_all_busy_gets_no_other() -> None:
    kept = connections()
    first, second = some(kept, 2, "a")
    [third] = some(kept, 1)
    assert not kept.begins(third, "a")
    assert kept.begins(third, "b")
    kept.rests(first)
    [fourth] = some(kept, 1)
    assert kept.begins(fourth, "a")
    assert dropped([first, second, third, fourth]) == [True, False, False, False]


def test_a_connection_may_change_its_caller() -> None:
    kept = connections()
    [peer] = some(kept, 1, "a")
    assert kept.begins(peer, "b")
    some(kept, 2, "a")
    kept.left(peer)
    some(kept, 2, "b")
    assert len(kept) == 4


EVENTS = st.tuples(st.sampled_from(["arrives", "begins", "rests", "refused", "left"]), st.integers(0, 9))


@given(st.lists(EVENTS, max_size=80))
def test_the_limits_hold_for_any_sequence_of_events(events: list[tuple[str, int]]) -> None:
    kept = connections()
    peers: dict[int, Peer] = {}
    for event, number in events:
        peer = peers.get(number)
        if event == "arrives" and (peer is None or peer.dropped):
            peers[number] = Peer()
            kept.arrived(peers[number])
        elif peer is not None and not peer.dropped:
            if event == "begins" and not kept.begins(peer, "ab"[number % 2]):
                kept.refused(peer)
            elif event == "rests":
                kept.rests(peer)
            elif event == "refused":
                kept.refused(peer)
            elif event == "left":
                kept.left(peer)
                del peers[number]
        assert len(kept) == sum(not each.dropped for each in peers.values()) <= 6


@pytest.mark.parametrize(("descriptors", "total", "unauthenticated"), [(1 << 20, 4096, 256), (256, 128, 64), (1, 2, 1)])
def test_connections_use_at_most_half_of_the_descriptors(descriptors: int, total: int, unauthenticated: int) -> None:
    limits = Limits().within(descriptors)
    assert (limits.total, limits.unauthenticated) == (total, unauthenticated)


# -- waiting


def test_first_refusals_are_immediate_and_later_ones_wait_longer_up_to_a_limit() -> None:
    slowdown = Slowdown(free=3, interval=1, longest=4)
    assert [slowdown.refused("10.0.0.1", "", 0) for _ in range(10)] == [0, 0, 0, 0, 1, 2, 3, 4, 4, 4]
    assert slowdown.refused("10.0.0.2", "", 0) == 0
    assert slowdown.refused("10.0.0.1", "", 100) == 0


def test_a_storm_is_forgotten_soon() -> None:
    slowdown = Slowdown(free=3, interval=1, longest=4)
    for _ in range(100_000):
        slowdown.refused("10.0.0.1", "", 0)
    assert slowdown.refused("10.0.0.1", "", 8) == 0


def test_keys_with_one_prefix_wait_from_any_address() -> None:
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
