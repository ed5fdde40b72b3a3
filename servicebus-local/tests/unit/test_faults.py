"""Faults, without sockets: what can be asked for, and the law that none of them loses a message."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus_local.admin.control import Control
from servicebus_local.admin.http import Request, Response
from servicebus_local.amqp import frames
from servicebus_local.amqp.composites import (
    Accepted,
    Modified,
    Outcome,
    Rejected,
    Released,
    Terminus,
    encode_outcome,
    read_outcome,
)
from servicebus_local.amqp.connection import Connection
from servicebus_local.amqp.frames import Frame, FrameReader
from servicebus_local.amqp.link import LinkConnection
from servicebus_local.amqp.performatives import Attach, Begin, Detach, Disposition, Flow, Open, Performative, Transfer
from servicebus_local.amqp.types import Raw, Uint
from servicebus_local.bus.access import ROOT, Keys
from servicebus_local.bus.clock import ManualClock, Timers
from servicebus_local.bus.message import read
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.queue import Queue
from servicebus_local.bus.topology import QueueOptions, Topology
from servicebus_local.faults import Fault, FaultError, Faults, read_fault
from servicebus_local.faults.fault import Occasion, Where
from servicebus_local.nodes.container import Container
from servicebus_local.record import Record
from servicebus_local.server import torn
from tests.examples import examples

LOCK = 10.0


# --------------------------------------------------------------------------- what can be asked for


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([], "a fault is an object with the fields 'at' and 'do'"),
        ({"at": "send"}, "the field 'do' is missing"),
        ({"at": "send", "do": "refuse", "entitty": "q"}, "there is no field 'entitty': a fault has at, do, entity"),
        ({"at": "sent", "do": "refuse"}, "'at' is one of attach, send, delivery, outcome, request, token, now, not"),
        ({"at": "send", "do": ["refuse"]}, "'do' is one of refuse, delay"),
        ({"at": "delivery", "do": "refuse"}, "at 'delivery' a fault can delay, lose-lock, drop, detach, not refuse"),
        ({"at": "send", "do": "refuse", "times": 0}, "'times' is a whole number, at least 1, not 0"),
        ({"at": "send", "do": "refuse", "times": True}, "'times' is a whole number"),
        ({"at": "send", "do": "refuse", "skip": -1}, "'skip' is a whole number, at least 0, not -1"),
        ({"at": "send", "do": "refuse", "entity": 5}, "'entity' is text, not 5"),
        ({"at": "send", "do": "refuse", "condition": None}, "'condition' is text, not None"),
        ({"at": "send", "do": "delay"}, "how long is told by 'seconds': 'delay' needs it"),
        ({"at": "send", "do": "delay", "seconds": "1"}, "'seconds' is a number, at least 0, not '1'"),
        ({"at": "send", "do": "delay", "seconds": float("inf")}, "'seconds' is a number"),
        ({"at": "send", "do": "drop", "seconds": 1}, "'seconds' says nothing about 'drop' at 'send'"),
        ({"at": "send", "do": "drop", "operation": "renew-lock"}, "'operation' says nothing about 'drop' at 'send'"),
        ({"at": "now", "do": "drop", "times": 3}, "'times' says nothing about 'drop' at 'now'"),
        ({"at": "now", "do": "drop", "sequence": 3}, "'sequence' says nothing about 'drop' at 'now'"),
        ({"at": "now", "do": "lose-lock", "sequence": 3}, "locks are lost in an entity: 'entity' is missing"),
        ({"at": "send", "do": "drop", "where": "middle"}, "'where' is one of before, within, after, not 'middle'"),
        ({"at": "attach", "do": "drop", "link": "both"}, "'link' is one of sender, receiver, management, not 'both'"),
    ],
)
def test_an_invalid_fault_is_refused_with_the_reason(given: Any, complaint: str) -> None:
    with pytest.raises(FaultError) as refused:
        read_fault(given)
    assert str(refused.value).startswith(complaint)


def occasion(entity: str = "orders", container: str = "SBSender-1", **more: Any) -> Occasion:
    return Occasion(more.pop("at", "send"), entity, container, more.pop("link", "sender"), **more)


def test_a_fault_skips_and_strikes_the_number_of_times_it_was_given() -> None:
    fault = Fault("send", "refuse", times=2, skip=1)
    assert [fault.strikes(occasion()) for _ in range(5)] == [False, True, True, False, False]
    assert (fault.struck, fault.over) == (2, True)


@pytest.mark.parametrize(
    ("fault", "struck", "spared"),
    [
        (Fault("send", "refuse"), occasion(), occasion(at="outcome")),
        (Fault("send", "refuse", entity="/Orders"), occasion(), occasion("orders/$DeadLetterQueue")),
        (Fault("send", "refuse", container="SBS"), occasion(), occasion(container="SBReceiver")),
        (
            Fault("request", "refuse", operation="renew-lock"),
            occasion(at="request", link="management", operation="com.microsoft:renew-lock"),
            occasion(at="request", link="management", operation="com.microsoft:peek-message"),
        ),
        (Fault("attach", "refuse"), occasion(at="attach"), occasion(at="attach", link="management")),
        (
            Fault("attach", "refuse", link="management"),
            occasion(at="attach", link="management"),
            occasion(at="attach"),
        ),
        (Fault("delivery", "lose-lock"), occasion(at="delivery"), occasion(at="delivery", locked=False)),
    ],
)
def test_a_fault_strikes_where_it_is_set(fault: Fault, struck: Occasion, spared: Occasion) -> None:
    assert not fault.strikes(spared)
    assert fault.strikes(struck)


def test_output_is_torn_within_its_last_frame() -> None:
    first, last = frames.EMPTY_FRAME, frames.frame(0, Open(container_id="somebody"))
    part = torn(first + last)
    assert part.startswith(first)
    assert part[len(first) :] == last[: len(last) // 2]
    assert torn(b"") == b""


# --------------------------------------------------------------------------- a broker without sockets


class Site:
    """A namespace, faults, a record, and clients that are wired to it by hand."""

    def __init__(self, **queues: QueueOptions) -> None:
        self.clock = ManualClock(1000)
        self.timers = Timers(self.clock)
        self.namespace = Namespace(Topology(queues or {"q": QueueOptions(lock_duration=LOCK)}), self.timers)
        self.keys = Keys({}, self.namespace, self.clock)
        self.clients: list[Client] = []
        self.soon: list[Callable[[], None]] = []
        self.faults = Faults(self.namespace, self, self.soon.append)
        self.record = Record(self.namespace)
        self.record.start()

    @property
    def queue(self) -> Queue:
        return self.namespace.queue("q")

    def turn(self) -> None:
        """Do what was put off to the end of the turn, and write to everybody."""
        while self.soon:
            self.soon.pop(0)()
        for client in list(self.clients):
            if not client.muted and not client.over:
                client.hear()

    def advance(self, seconds: float) -> None:
        self.timers.advance(self.clock, seconds)
        self.turn()

    # what faults do to sockets

    def peers(self) -> list[Container]:
        return [client.container for client in self.clients]

    def flush(self, connection: LinkConnection) -> None:
        if not self.of(connection).over:
            self.of(connection).hear()

    def cut(self, connection: LinkConnection, where: Where) -> None:
        client = self.of(connection)
        output = client.connection.take()
        if client.over:
            return
        client.over = True
        client.hear({"before": b"", "within": torn(output), "after": output}[where])
        client.connection.abandon()
        client.connection.paused = True
        self.soon.append(client.lost)

    def hold(self, connection: LinkConnection, *, reading: bool, writing: bool) -> None:
        self.of(connection).muted = writing

    def let_go(self, connection: LinkConnection, *, reading: bool, writing: bool) -> None:
        self.of(connection).muted = False

    def of(self, connection: LinkConnection) -> "Client":
        [client] = [client for client in self.clients if client.connection is connection]
        return client


class Client:
    """A connection with one sender and one receiver, written by hand; it remembers what it was told."""

    def __init__(self, site: Site, name: str, queue: str = "q") -> None:
        self.site = site
        self.muted = self.over = False
        self.connection = Connection()
        self.container = Container(site.namespace, site.keys, self.connection, site.faults)
        assert self.container.login(ROOT.name, ROOT.keys[0])
        self.reader = FrameReader(1 << 24)
        self.sent: dict[int, str] = {}
        self.answers: dict[str, Outcome | None] = {}  # to what was sent, by message id
        self.deliveries: dict[int, str] = {}  # that are not settled
        self.settling: dict[int, str] = {}  # outcomes that were not confirmed
        self.confirmed: list[tuple[str, Outcome | None]] = []
        self.detached: list[Detach] = []
        self.seen = self.limit = 0
        site.clients.append(self)
        self.put(frames.AMQP_HEADER)
        self.say(Open(container_id=name))
        self.say(Begin(next_outgoing_id=Uint(0), incoming_window=Uint(9999), outgoing_window=Uint(9999)))
        self.attach(f"{name}-sender", 0, queue, receives=False)
        self.attach(f"{name}-receiver", 1, queue, receives=True)
        site.turn()

    def attach(self, name: str, handle: int, queue: str, *, receives: bool) -> None:
        source, target = Terminus(queue).as_source(), Terminus(queue).as_target()
        self.say(Attach(name, Uint(handle), receives, None, None, source, target, initial_delivery_count=Uint(0)))

    def put(self, data: bytes) -> None:
        for event in self.connection.receive(data):
            self.container.handle(event)

    def say(self, performative: Performative, payload: bytes = b"") -> None:
        data = frames.frame(0, performative) + payload
        self.put(len(data).to_bytes(4, "big") + data[4:])

    def lost(self) -> None:
        if self in self.site.clients:
            self.site.clients.remove(self)
            for event in self.connection.lost():
                self.container.handle(event)

    # the sender

    def send(self, name: str) -> None:
        number = len(self.sent)
        self.sent[number] = name
        encoded = name.encode()
        payload = b"\x00\x53\x73\xc0%c\x01\xa1%c%b\x00\x53\x75\xa0\x01x" % (len(encoded) + 3, len(encoded), encoded)
        self.say(Transfer(Uint(0), Uint(number), b"t", Uint(0), False), payload)
        self.site.turn()

    # the receiver

    def receive(self, credit: int = 1) -> None:
        flow = Flow(Uint(0), Uint(9999), Uint(0), Uint(9999), Uint(1), Uint(self.seen), Uint(credit))
        self.limit = max(self.limit, self.seen + credit)  # less credit may cross a message on its way
        self.say(flow)
        self.site.turn()

    def drain(self) -> None:
        flow = Flow(Uint(0), Uint(9999), Uint(0), Uint(9999), Uint(1), Uint(self.seen), Uint(5), None, True)
        self.limit = max(self.limit, self.seen + 5)
        self.say(flow)
        self.site.turn()

    def settle(self, number: int, outcome: Outcome) -> None:
        self.settling[number] = self.deliveries.pop(number)
        state = Raw(encode_outcome(outcome))
        self.say(Disposition(True, Uint(number), Uint(number), False, state))
        self.site.turn()

    # what comes back

    def hear(self, data: bytes | None = None) -> None:
        for unit in self.reader.feed(self.connection.take() if data is None else data):
            if isinstance(unit, Frame) and unit.body:
                self.on(*frames.parse(unit.body))

    def on(self, performative: Performative, payload: bytes) -> None:
        match performative:
            case Transfer(_, number) if number is not None:
                self.seen += 1
                assert self.seen <= self.limit, "more than the credit that was given"
                assert all(detach.handle != 1 for detach in self.detached), "a message on a link that is gone"
                self.deliveries[number] = str(read(payload).message_id)
            case Disposition(role, number):
                self.on_outcome(number, read_outcome(performative.state), of_a_send=role)
            case Flow(handle=1, delivery_count=int(count)):
                self.seen = count
            case Detach():
                self.detached.append(performative)
            case _:
                pass

    def on_outcome(self, number: int, outcome: Outcome | None, *, of_a_send: bool) -> None:
        if of_a_send:
            self.answers[self.sent[number]] = outcome
        else:
            self.confirmed.append((self.settling.pop(number), outcome))


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def client(site: Site) -> Client:
    return Client(site, "client")


def test_nothing_is_looked_at_while_no_fault_is_set(site: Site, client: Client) -> None:
    looks = [site.faults.armed]
    with site.faults.swallow("send", times=None):
        looks.append(site.faults.armed)
    looks.append(site.faults.armed)
    site.faults.refuse("send")
    client.send("a")
    looks.append(site.faults.armed)
    assert looks == [False, True, False, False]


def test_a_swallowed_send_is_kept_and_an_ignored_one_is_not(site: Site, client: Client) -> None:
    site.faults.swallow("send")
    site.faults.ignore("send", skip=1)
    for name in ("swallowed", "ignored", "plain"):
        client.send(name)
    assert client.answers == {"plain": Accepted()}
    assert [message.message_id for message in site.queue.messages.values()] == ["swallowed", "plain"]


def test_a_delayed_send_keeps_its_place_on_the_link(site: Site, client: Client) -> None:
    site.faults.delay("send", 5)
    client.send("first")
    client.send("second")
    assert not site.queue.messages
    site.advance(5)
    assert list(client.answers) == ["first", "second"]
    assert not site.faults.armed


def test_a_delayed_send_goes_down_with_its_connection(site: Site, client: Client) -> None:
    site.faults.delay("send", 5)
    client.send("lost")
    client.lost()
    site.advance(5)
    assert not site.queue.messages
    assert not site.faults.armed


def test_a_delayed_delivery_holds_the_lock_and_uses_up_credit(site: Site, client: Client) -> None:
    site.faults.delay("delivery", 5)
    for name in ("a", "b"):
        client.send(name)
    client.receive(credit=1)
    assert site.queue.counts().active == 2
    assert list(site.queue.tokens()) == [1]
    assert not client.deliveries
    site.advance(5)
    assert list(client.deliveries.values()) == ["a"]


def test_a_delivery_does_not_overtake_one_that_was_delayed(site: Site, client: Client) -> None:
    site.faults.delay("delivery", 5)
    for name in ("a", "b"):
        client.send(name)
    client.receive(credit=2)
    site.advance(5)
    assert list(client.deliveries.values()) == ["a", "b"]


def test_a_drain_is_answered_after_the_delivery_that_was_delayed(site: Site, client: Client) -> None:
    site.faults.delay("delivery", 5)
    client.send("a")
    client.drain()
    assert client.seen == 0
    site.advance(5)
    assert client.seen == 5
    assert list(client.deliveries.values()) == ["a"]


@pytest.mark.parametrize("where", ["before", "within", "after"])
def test_a_connection_breaks_before_within_or_after_a_delivery(site: Site, client: Client, where: Where) -> None:
    site.faults.drop("delivery", where, skip=1)
    for name in ("a", "b", "c"):
        client.send(name)
    client.receive(credit=3)
    assert list(client.deliveries.values()) == ["a", *["b"] * (where == "after")]
    assert client not in site.clients
    assert list(site.queue.tokens()) == [1, 2]  # the locks outlive the connection, and no third one was taken


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_connection_breaks_when_an_outcome_is_applied(site: Site, client: Client, where: Where) -> None:
    client.send("a")
    client.receive()
    site.faults.drop("outcome", where)
    client.settle(next(iter(client.deliveries)), Accepted())
    assert not site.queue.messages
    assert client.confirmed == [("a", Accepted())] * (where == "after")


def test_the_lock_on_a_delivery_is_lost_at_once_or_after_a_while(site: Site, client: Client) -> None:
    site.faults.lose_locks()
    site.faults.lose_locks(after=3, skip=1)
    client.send("a")
    client.receive(credit=2)
    assert site.queue.messages[1].delivery_count == 1
    site.advance(3)
    assert site.queue.messages[1].delivery_count == 2
    [first, second] = client.deliveries
    client.settle(first, Accepted())
    client.settle(second, Accepted())
    assert [outcome for _, outcome in client.confirmed if isinstance(outcome, Rejected)] != []
    assert site.queue.messages


def test_locks_are_lost_on_demand(site: Site, client: Client) -> None:
    for name in ("a", "b"):
        client.send(name)
    client.receive(credit=2)
    assert site.faults.lose_lock("q", sequence=2) == 1
    assert [message.delivery_count for message in site.queue.messages.values()] == [0, 1]
    assert site.faults.lose_lock("q") == 1
    assert not site.queue.tokens()


def test_a_session_is_lost_on_demand() -> None:
    site = Site(s=QueueOptions(requires_session=True))
    queue = site.namespace.queue("s")
    held: list[str] = []

    class Holder:
        name, container, deletes, sends, ready = "link", "me", False, False, False

        def deliver(self, *_: object) -> None:
            raise AssertionError

        def lost(self, error: Exception) -> None:
            held.append(str(error))

    queue.accept_session(Holder(), "one")
    assert site.faults.lose_lock("s", session="one") == 1
    assert held == ["The lock on session 'one' has expired."]
    assert [event.kind for event in site.record.events()] == ["session-accepted", "session-lost"]
    assert site.record.check() == []


def test_links_are_detached_by_direction_with_a_condition(site: Site, client: Client) -> None:
    assert site.faults.detach("q", "com.microsoft:server-busy", link="receiver") == 1
    site.turn()
    [detach] = client.detached
    assert detach.handle == 1
    assert "com.microsoft:server-busy" in str(detach.error)
    client.send("still there")
    assert client.answers == {"still there": Accepted()}


def test_a_fault_ends_after_its_time(site: Site, client: Client) -> None:
    fault = site.faults.refuse("send", times=None, lasts=10)
    client.send("a")
    site.advance(10)
    client.send("b")
    assert isinstance(client.answers["a"], Rejected)
    assert client.answers["b"] == Accepted()
    assert (fault.struck, fault.over) == (1, True)


def test_faults_strike_together_in_the_order_they_were_set(site: Site, client: Client) -> None:
    site.faults.delay("send", 5)
    site.faults.swallow("send")
    client.send("late and unheard")
    assert not site.queue.messages
    site.advance(5)
    assert site.queue.messages
    assert not client.answers


# --------------------------------------------------------------------------- over HTTP


def ask(site: Site, method: str, path: str, body: Any = None, **query: str) -> Response:
    otherwise = Response(200, "text/plain", b"somebody else")
    control = Control(site.faults, site.record, lambda _request: otherwise)
    data = b"" if body is None else json.dumps(body).encode()
    return control(Request(method, path, query, "localhost", True, {}, data))


def test_faults_are_set_listed_and_removed_over_http(site: Site, client: Client) -> None:
    first = json.loads(ask(site, "POST", "/faults", {"at": "send", "do": "refuse", "times": None}).body)
    ask(site, "POST", "/faults", [{"at": "send", "do": "delay", "seconds": 1}, {"at": "now", "do": "drop"}])
    listed = json.loads(ask(site, "GET", "/faults").body)
    assert [(fault["id"], fault["do"], fault["struck"]) for fault in listed] == [
        (1, "refuse", 0),
        (2, "delay", 0),
        (3, "drop", 1),
    ]
    assert first == {"id": 1, "at": "send", "do": "refuse", "times": None, "struck": 0, "over": False}
    assert json.loads(ask(site, "DELETE", "/faults/1").body)["over"]
    assert ask(site, "DELETE", "/faults/9").status == 404
    ask(site, "DELETE", "/faults")
    assert json.loads(ask(site, "GET", "/faults").body) == []
    assert not site.faults.armed


@pytest.mark.parametrize(
    ("method", "path", "body", "query", "status", "sentence"),
    [
        ("POST", "/faults", {"at": "send", "do": "cry"}, {}, 400, "'do' is one of refuse"),
        ("POST", "/faults", [{"at": "send", "do": "refuse"}, {"at": "now"}], {}, 400, "the field 'do' is missing"),
        ("POST", "/faults", {"at": "now", "do": "lose-lock", "entity": "nowhere"}, {}, 404, "The messaging entity"),
        (
            "POST",
            "/faults",
            {"at": "now", "do": "lose-lock", "entity": "q", "sequence": 7},
            {},
            410,
            "The message 7 of 'q' is not locked.",
        ),
        ("POST", "/faults", None, {}, 400, "the body is not JSON"),
        ("GET", "/faults/1", None, {}, 400, "there is nothing at '1'"),
        ("PUT", "/faults", None, {}, 405, "only GET, POST, DELETE are there"),
        ("GET", "/deliveries", None, {"since": "yesterday"}, 400, "'since' is the number of an event"),
        ("GET", "/deliveries", None, {"queue": "q"}, 400, "'queue' is not known here: there are entity, since"),
        ("POST", "/deliveries", {"limit": 0}, {}, 400, "what is expected is"),
        ("POST", "/deliveries", {"size": 5}, {}, 400, "what is expected is"),
        ("GET", "/orders", None, {}, 200, "somebody else"),
        ("GET", "/faults", None, {"api-version": "2021-05"}, 200, "somebody else"),
    ],
)
def test_requests_are_refused_with_a_sentence_or_passed_on(
    site: Site, method: str, path: str, body: Any, query: dict[str, str], status: int, sentence: str
) -> None:
    response = ask(site, method, path, body, **query)
    assert (response.status, response.body.decode().startswith(sentence)) == (status, True)
    assert not site.faults.armed


def test_the_record_is_read_over_http(site: Site, client: Client) -> None:
    client.send("a")
    client.receive()
    lines = ask(site, "GET", "/deliveries", entity="q", since="1").body.decode().splitlines()
    [delivered] = map(json.loads, lines)
    assert (delivered["kind"], delivered["message_id"], delivered["container"]) == ("delivered", "a", "client")
    assert json.loads(ask(site, "POST", "/deliveries", {"limit": 1}).body) == {
        "limit": 1,
        "kept": 1,
        "dropped": 1,
        "last": 2,
    }
    client.settle(next(iter(client.deliveries)), Accepted())
    response = ask(site, "GET", "/deliveries")
    assert dict(response.headers) == {"x-limit": "1", "x-dropped": "2"}
    assert json.loads(response.body)["kind"] == "completed"
    ask(site, "DELETE", "/deliveries")
    client.send("b")
    assert ask(site, "GET", "/deliveries").body == b""


# --------------------------------------------------------------------------- the law


OUTCOMES: dict[str, Outcome] = {
    "complete": Accepted(),
    "release": Released(),
    "abandon": Modified(True, False, None),
    "defer": Modified(True, True, None),
    "dead-letter": Rejected(),
}
WAITING: list[tuple[Any, Any]] = [
    *[("send", do) for do in ("refuse", "delay", "ignore", "swallow", "drop", "detach")],
    *[("delivery", do) for do in ("delay", "lose-lock", "drop", "detach")],
    *[("outcome", do) for do in ("refuse", "delay", "ignore", "swallow", "drop", "detach")],
    *[("attach", do) for do in ("refuse", "delay", "ignore", "drop")],
]


class World:
    """Clients at work, and things going wrong, as a seed has it."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.site = Site(q=QueueOptions(lock_duration=LOCK, max_delivery_count=3))
        self.messages = 0
        self.everybody: list[Client] = []
        self.steps: dict[Callable[[], None], int] = {  # and how likely each is
            self.send: 6,
            self.receive: 6,
            self.settle: 6,
            self.wait: 3,
            self.spoil: 2,
            self.spoil_now: 1,
            self.mend: 1,
            self.hang_up: 1,
        }

    def step(self) -> None:
        while len(self.site.clients) < 3 and self.random.random() < 0.9:
            self.everybody.append(Client(self.site, f"client-{len(self.everybody)}"))
        if self.site.clients:
            [step] = self.random.choices(list(self.steps), list(self.steps.values()))
            step()

    def client(self) -> Client:
        return self.random.choice(self.site.clients)

    def send(self) -> None:
        self.messages += 1
        self.client().send(f"m{self.messages}")

    def receive(self) -> None:
        client, credit = self.client(), self.random.randint(1, 4)
        if self.random.random() < 0.2:
            client.drain()
        else:
            client.receive(credit)

    def settle(self) -> None:
        client = self.client()
        for number in sorted(client.deliveries):
            if client in self.site.clients and self.random.random() < 0.8:
                [outcome] = self.random.choices(list(OUTCOMES), [6, 1, 1, 1, 1])
                client.settle(number, OUTCOMES[outcome])

    def wait(self) -> None:
        self.site.advance(self.random.choice([1.0, 3.0, LOCK]))

    def spoil(self) -> None:
        at, do = self.random.choice(WAITING)
        more: dict[str, Any] = {"seconds": 3.0} if do == "delay" else {"where": "within"} if do == "drop" else {}
        self.site.faults.set(
            Fault(at, do, times=self.random.choice([1, 2, 5]), skip=self.random.choice([0, 0, 1]), **more)
        )

    def spoil_now(self) -> None:
        do: Any = self.random.choice(["drop", "detach", "lose-lock"])
        self.site.faults.set(Fault("now", do, entity="q"))
        self.site.turn()

    def mend(self) -> None:
        self.site.faults.clear()

    def hang_up(self) -> None:
        self.client().lost()

    # ------------------------------------------------------------------ the law

    def told(self, kind: str) -> list[str]:
        return [event.message_id for event in self.site.record.events("q") if event.kind == kind]

    def check(self) -> None:
        assert self.site.record.check() == []
        self.check_that_every_message_is_in_one_place()
        self.check_that_clients_are_told_what_is_so()

    def check_that_every_message_is_in_one_place(self) -> None:
        queue = self.site.queue
        held = [message.message_id for part in (queue, queue.dead_letters) for message in part.messages.values()]
        assert sorted(held + self.told("completed")) == sorted(self.told("sent"))

    def check_that_clients_are_told_what_is_so(self) -> None:
        sent, completed = set(self.told("sent")), set(self.told("completed"))
        asked: set[str] = set()
        for client in self.everybody:
            for name, outcome in client.answers.items():
                assert (name in sent) == isinstance(outcome, Accepted)
            for name, outcome in client.confirmed:
                assert name in completed or not isinstance(outcome, Accepted)
            asked |= {*client.settling.values(), *(name for name, _ in client.confirmed)}
        assert completed <= asked

    def end(self) -> None:
        """When nothing goes wrong any more, everything that is not done can be had."""
        self.mend()
        self.site.advance(10 * LOCK)
        for client in list(self.site.clients):
            client.lost()
        self.site.advance(10 * LOCK)
        assert not self.site.faults.armed
        ready = [message.message_id for message in self.site.queue.messages.values() if not message.deferred]
        last = Client(self.site, "last")
        last.receive(credit=1000)
        assert sorted(last.deliveries.values()) == sorted(ready)
        self.check()


@examples(60)
@given(seed=st.integers(0, 2**32))
def test_no_fault_loses_a_message_or_confirms_what_did_not_happen(seed: int) -> None:
    world = World(seed)
    for number in range(200):
        world.step()
        if number % 10 == 0:
            world.check()
    world.end()
