"""What a connection does when time passes; the clock is a number."""

from typing import Any

import pytest

from servicebus_local.amqp import frames
from servicebus_local.amqp.connection import Connection
from servicebus_local.amqp.events import Closed
from servicebus_local.amqp.frames import EMPTY_FRAME
from servicebus_local.amqp.limits import DEFAULT_LIMITS
from servicebus_local.amqp.performatives import Close, Open, SaslInit
from servicebus_local.amqp.types import Symbol, Uint
from tests.unit.amqp_peer import Peer, encoded

LIMITS = DEFAULT_LIMITS._replace(opening=30.0, closing=5.0)
START = 1000.0


def opened(idle: float | None = None, **fields: Any) -> Connection:
    """Open a connection; the peer asks for what is in the fields."""
    connection = Connection(limits=LIMITS, idle_time_out=idle)
    assert connection.tick(START) == START + 30
    list(connection.receive(frames.AMQP_HEADER + encoded(0, Open(container_id="c", **fields))))
    connection.take()
    return connection


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"AMQ",
        frames.SASL_HEADER,
        frames.SASL_HEADER + encoded(0, SaslInit(Symbol("ANONYMOUS"))),
        frames.AMQP_HEADER,
        frames.AMQP_HEADER + encoded(0, Open("c"))[:-1],
    ],
    ids=["nothing", "half a header", "sasl", "authenticated", "header", "half an open"],
)
def test_a_peer_that_does_not_open_is_given_up(said: bytes) -> None:
    connection = Connection(limits=LIMITS)
    due = connection.tick(START)
    list(connection.receive(said))
    assert due == connection.tick(START + 29.9) == START + 30
    assert not connection.closed
    assert connection.tick(START + 30) is None
    assert connection.finished
    [closed] = connection.pending()
    assert isinstance(closed, Closed)


def test_a_peer_that_sent_a_header_learns_why_it_is_closed() -> None:
    connection = Connection(limits=LIMITS)
    connection.tick(START)
    list(connection.receive(frames.AMQP_HEADER))
    connection.tick(START + 31)
    assert b"no open frame came within 30 seconds" in connection.take()


def test_a_peer_that_wants_heartbeats_hears_two_in_its_time() -> None:
    connection = opened(idle_time_out=Uint(10_000))
    due = connection.tick(START)
    heard = 0
    for _ in range(5):
        heard += connection.take().count(EMPTY_FRAME)
        assert due is not None
        due = connection.tick(due)
    assert (heard, due) == (5, START + 30)


def test_a_look_before_the_time_beats_no_heart() -> None:
    connection = opened(idle_time_out=Uint(10_000))
    connection.tick(START)
    connection.take()
    assert connection.tick(START + 1) == START + 5
    assert connection.take() == b""


@pytest.mark.parametrize("idle", [None, Uint(0)])
def test_a_peer_that_wants_none_is_never_looked_at_again(idle: Uint | None) -> None:
    fields = {} if idle is None else {"idle_time_out": idle}
    assert opened(**fields).tick(START) is None


def test_a_silent_peer_is_closed_when_it_was_told_to_speak() -> None:
    connection = opened(idle=10.0)
    due = connection.tick(START)
    ticks = 0
    while due is not None:
        ticks += 1
        last, due = due, connection.tick(due)
    assert ticks <= 4
    assert 20 <= last - START <= 30
    assert connection.finished
    assert b"amqp:connection:forced" in connection.take()


def test_a_peer_that_speaks_is_not() -> None:
    connection = opened(idle=10.0)
    due = connection.tick(START)
    while due is not None and due < START + 100:
        list(connection.receive(EMPTY_FRAME))
        due = connection.tick(due)
    assert due is not None
    assert not connection.closed


def test_a_close_that_is_not_answered_is_waited_for_a_while() -> None:
    peer = Peer(limits=LIMITS)
    peer.connection.tick(START)
    peer.connection.close()
    assert peer.connection.tick(START + 1) == START + 6
    assert not peer.connection.finished
    assert peer.connection.tick(START + 6) is None
    assert peer.connection.finished


def test_a_close_that_is_answered_is_the_end() -> None:
    peer = Peer(limits=LIMITS)
    peer.connection.close()
    peer.connection.tick(START)
    peer.say(0, Close())
    assert peer.connection.tick(START + 1) is None
    assert peer.connection.finished
