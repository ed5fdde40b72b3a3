"""Links of one connection: where each leads, who may attach it, when it ends, and who gets an answer."""

import logging
from collections.abc import Callable

import pytest

from servicebus_local.amqp.composites import ACCEPTED, RELEASED, Accepted, Outcome, Rejected, Released
from servicebus_local.amqp.performatives import Disposition
from servicebus_local.amqp.types import Array, Int, Raw, Symbol, Timestamp, Uint, Ulong, Uuid, encode
from servicebus_local.bus.access import Keys
from servicebus_local.bus.clock import ManualClock, Timers
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.topology import (
    AccessRule,
    QueueOptions,
    Right,
    SubscriptionDefinition,
    TopicDefinition,
    TopicOptions,
    Topology,
)
from servicebus_local.nodes.addresses import Address, read_address
from tests.protocol.peer import Answer, Wire, signature

PEEK = {"from-sequence-number": 0, "message-count": 1}
BODY = b"\x00\x53\x75\xa0\x01x"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("orders", Address("orders")),
        ("/orders/", Address("orders")),
        ("amqps://127.0.0.1:5672/orders", Address("orders")),
        ("sb://host/a/b/$DeadLetterQueue", Address("a/b/$DeadLetterQueue")),
        ("orders/$management", Address("orders", management=True)),
        ("amqps://h/orders/$DeadLetterQueue/$Management", Address("orders/$DeadLetterQueue", management=True)),
        ("news/Subscriptions/all/$management", Address("news/Subscriptions/all", management=True)),
        ("$cbs", Address("$cbs")),
        ("amqps://host/$CBS", Address("$cbs")),
        ("sb://host:1", Address("")),
        (None, Address("")),
    ],
)
def test_addresses_are_read_with_or_without_a_host(address: str | None, expected: Address) -> None:
    assert read_address(address) == expected


def test_two_spellings_of_an_address_lead_to_one_node() -> None:
    assert read_address("amqps://h/Orders/$management").node == read_address("orders/$MANAGEMENT").node
    assert read_address("orders/$management").node != read_address("orders").node


class Bus:
    """A namespace, two clocks, and as many connections as a test wants."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.wall = ManualClock()
        self.clock = clock or self.wall
        self.timers = Timers(self.clock)
        sender = AccessRule("sender", ("s",), frozenset({Right.SEND}))
        reader = AccessRule("reader", ("r",), frozenset({Right.LISTEN}))
        topics = {"news": TopicDefinition(TopicOptions(access=(reader,)), {"all": SubscriptionDefinition()})}
        queues = {"q": QueueOptions(access=(sender,)), "s": QueueOptions(requires_session=True), "p": QueueOptions()}
        self.namespace = Namespace(Topology(queues, topics), self.timers)
        self.keys = Keys({"": (reader, sender)}, self.namespace, self.wall)

    def connect(self, plain: tuple[str, str] | None = None) -> Wire:
        return Wire(self.namespace, self.keys, plain)

    def connect_for(self, path: str, **token: object) -> Wire:
        """Connect, and show a token for a path."""
        wire = self.connect()
        shown = show(wire, path, signature(path, **token))  # type: ignore[arg-type]
        assert shown == (202, "Accepted")
        return wire


@pytest.fixture
def bus() -> Bus:
    return Bus()


def show(wire: Wire, path: str, token: str | None = None, **properties: object) -> tuple[int, str]:
    """Show a token to $cbs; return the status and the sentence."""
    answers, cbs = wire.peer.receive_from("$cbs", reply_to="me"), wire.peer.send_to("$cbs")
    wire.peer.show(cbs, path, token, **properties)
    wire.carry()
    [answer] = wire.peer.answers(answers)
    return answer.status, answer.description


def refusal(wire: Wire, name: str) -> tuple[str, str]:
    """Return why a link is gone."""
    error = wire.peer.detached[name]
    assert error is not None
    return error.condition, error.description or ""


# --------------------------------------------------------------------------- $cbs


def test_a_token_is_taken_and_answered_in_the_words_every_sdk_reads(bus: Bus) -> None:
    wire = bus.connect()
    answers, cbs = wire.peer.receive_from("$cbs", reply_to="me"), wire.peer.send_to("$cbs")
    wire.peer.show(cbs, "q", reply_to="me")
    wire.carry()
    [answer] = wire.peer.answers(answers)
    assert answer.application == {"status-code": 202, "status-description": "Accepted"}


@pytest.mark.parametrize("message_id", ["text", Uuid(b"\x01" * 16), Ulong(7), b"bytes", None])
def test_an_answer_repeats_the_id_of_the_request_exactly(bus: Bus, message_id: object) -> None:
    wire = bus.connect()
    answers, cbs = wire.peer.receive_from("$cbs"), wire.peer.send_to("$cbs")
    wire.peer.request(cbs, "put-token", signature("q"), message_id, name="sb://h/q")
    wire.carry()
    [payload] = wire.peer.received[answers]
    assert Answer(payload).correlation_id == message_id
    assert b"\x40" * 5 + encode(message_id) in payload


@pytest.mark.parametrize(
    "name", ["sb://h/q", "amqp://h/q", "amqps://h:5671/q/", "sb://h/Q/$management", "https://h/q", "q"]
)
def test_a_token_is_for_a_name_in_any_spelling(bus: Bus, name: str) -> None:
    wire = bus.connect()
    assert show(wire, "q", signature("q"), name=name) == (202, "Accepted")
    receiver = wire.peer.receive_from("q")
    wire.carry()
    assert receiver in wire.peer.attached


@pytest.mark.parametrize(
    ("path", "token", "status", "reason"),
    [
        ("q", signature("q", key="guess"), 401, "InvalidSignature"),
        ("q", signature("q", policy="nobody"), 401, "InvalidSignature"),
        ("q", signature("q", lasts=-10), 401, "ExpiredToken"),
        ("q", signature("p"), 401, "InvalidAudience"),
        ("q", "eyJhbGciOi.eyJhdWQiOi.c2ln", 401, "JSON Web Token"),
        ("q", "nonsense", 401, "Only shared access signatures"),
        ("nowhere", signature("nowhere"), 404, "'nowhere' could not be found"),
        ("nowhere", signature("nowhere", key="guess"), 401, "InvalidSignature"),
        ("news/Subscriptions/none", signature("news"), 404, "could not be found"),
    ],
)
def test_other_tokens_are_refused(bus: Bus, path: str, token: str, status: int, reason: str) -> None:
    code, description = show(bus.connect(), path, token)
    assert code == status
    assert reason in description


def test_requests_that_are_none_are_refused(bus: Bus) -> None:
    wire = bus.connect()
    answers, cbs = wire.peer.receive_from("$cbs"), wire.peer.send_to("$cbs")
    wire.peer.request(cbs, "delete-token", "x", name="sb://h/q")
    wire.peer.request(cbs, "put-token", signature("q"))
    wire.peer.request(cbs, "put-token", 5, name="sb://h/q")
    wire.peer.request(cbs, "put-token", signature("q").encode(), name="sb://h/q")  # bytes will do
    wire.carry()
    assert [answer.status for answer in wire.peer.answers(answers)] == [501, 400, 400, 202]


def test_bytes_that_are_not_a_message_are_rejected_and_the_link_stays(bus: Bus) -> None:
    wire = bus.connect_for("q")
    cbs, management = wire.peer.send_to("$cbs"), wire.peer.send_to("q/$management")
    numbers = [wire.peer.send(handle, b"\x00\x53\x77\xff") for handle in (cbs, management)]
    wire.carry()
    for number in numbers:
        outcome = wire.peer.outcomes[number]
        assert isinstance(outcome, Rejected)
        assert outcome.error is not None
        assert outcome.error.condition == "com.microsoft:argument-error"
    assert wire.peer.closed is None


def test_a_request_that_was_settled_gets_no_disposition(bus: Bus) -> None:
    wire = bus.connect()
    answers, cbs = wire.peer.receive_from("$cbs"), wire.peer.send_to("$cbs")
    settled = wire.peer.request(cbs, "put-token", signature("q"), name="sb://h/q", settled=True)
    unsettled = wire.peer.request(cbs, "put-token", signature("q"), name="sb://h/q")
    wire.carry()
    assert settled not in wire.peer.outcomes
    assert wire.peer.outcomes[unsettled] == Accepted()
    assert len(wire.peer.answers(answers)) == 2


# --------------------------------------------------------------------------- who may attach what


ATTACH: dict[str, Callable[[Wire], str]] = {
    "a sender": lambda wire: _named(wire, "q"),
    "a receiver": lambda wire: wire.peer.receive_from("q"),
    "management": lambda wire: _named(wire, "q/$management"),
    "answers of management": lambda wire: wire.peer.receive_from("q/$management"),
}


def _named(wire: Wire, address: str) -> str:
    wire.peer.send_to(address, f"to-{address}")
    return f"to-{address}"


@pytest.mark.parametrize("what", ATTACH)
def test_without_a_token_nothing_is_attached(bus: Bus, what: str) -> None:
    wire = bus.connect()
    name = ATTACH[what](wire)
    wire.carry()
    condition, description = refusal(wire, name)
    assert condition == "amqp:unauthorized-access"
    assert "Resource: 'q'. No token was shown for it." in description


@pytest.mark.parametrize(
    ("policy", "key", "allowed"),
    [
        ("RootManageSharedAccessKey", "local", set(ATTACH)),
        ("sender", "s", {"a sender", "management", "answers of management"}),
        ("reader", "r", {"a receiver", "management", "answers of management"}),
    ],
)
def test_each_link_takes_its_right(bus: Bus, policy: str, key: str, allowed: set[str]) -> None:
    wire = bus.connect_for("q", policy=policy, key=key)
    names = {what: attach(wire) for what, attach in ATTACH.items()}
    wire.carry()
    assert {what for what, name in names.items() if name in wire.peer.attached} == allowed
    for what in set(ATTACH) - allowed:
        condition, description = refusal(wire, names[what])
        assert condition == "amqp:unauthorized-access"
        assert f"'{'Send' if what == 'a sender' else 'Listen'}' claim(s) are required" in description


@pytest.mark.parametrize(
    ("path", "address", "opened"),
    [
        ("q", "q/$DeadLetterQueue", True),
        ("q", "p", False),
        ("news", "news/Subscriptions/all", True),
        ("news/Subscriptions/all", "news/subscriptions/ALL/$DeadLetterQueue", True),
        ("", "p", True),
    ],
)
def test_a_token_opens_its_entity_and_what_is_below_it(bus: Bus, path: str, address: str, opened: bool) -> None:
    wire = bus.connect_for(path)
    name = wire.peer.receive_from(address)
    wire.carry()
    assert (name in wire.peer.attached) is opened


def test_tokens_count_on_their_own_connection_only(bus: Bus) -> None:
    bus.connect_for("q")
    other = bus.connect()
    name = other.peer.receive_from("q")
    other.carry()
    assert refusal(other, name)[0] == "amqp:unauthorized-access"


@pytest.mark.parametrize(
    ("address", "condition", "words"),
    [
        ("nowhere", "amqp:not-found", "The messaging entity 'nowhere' could not be found."),
        ("news/Subscriptions/none", "amqp:not-found", "could not be found"),
        ("news", "amqp:not-allowed", "'news' is a topic"),
        ("s", "amqp:not-allowed", "requires sessions"),
        ("sb://host/", "amqp:not-found", "names no messaging entity"),
    ],
)
def test_what_cannot_be_received_from_is_refused(bus: Bus, address: str, condition: str, words: str) -> None:
    wire = bus.connect_for("")
    name = wire.peer.receive_from(address)
    wire.carry()
    found, description = refusal(wire, name)
    assert found == condition
    assert words in description


def test_an_address_that_names_nothing_creates_nothing(bus: Bus) -> None:
    bus.namespace.default_options = QueueOptions()
    before = [queue.name for queue in bus.namespace.queues()]
    wire = bus.connect_for("")
    names = [wire.peer.receive_from(address) for address in ("", "$weird", "/$management")]
    wire.carry()
    assert {refusal(wire, name)[0] for name in names} == {"amqp:not-found"}
    assert [queue.name for queue in bus.namespace.queues()] == before


def test_an_unknown_queue_is_created_when_it_is_used_if_that_is_wanted(bus: Bus) -> None:
    bus.namespace.default_options = QueueOptions(max_delivery_count=7)
    wire = bus.connect_for("new/one")
    name = wire.peer.receive_from("new/one/$DeadLetterQueue")
    wire.carry()
    assert name in wire.peer.attached
    assert bus.namespace.queue("New/One").options.max_delivery_count == 7


# --------------------------------------------------------------------------- name and key in place of tokens


def test_the_name_of_a_policy_and_its_key_do_instead_of_tokens(bus: Bus) -> None:
    wire = bus.connect(plain=("RootManageSharedAccessKey", "local"))
    name = wire.peer.receive_from("q")
    wire.carry()
    assert wire.peer.logged_in
    assert name in wire.peer.attached


def test_they_open_no_more_than_the_policy_does(bus: Bus) -> None:
    wire = bus.connect(plain=("sender", "s"))
    receiver, sender = wire.peer.receive_from("p"), _named(wire, "p")
    wire.carry()
    assert refusal(wire, receiver)[0] == "amqp:unauthorized-access"
    assert sender in wire.peer.attached


def test_a_wrong_key_ends_the_connection(bus: Bus) -> None:
    wire = bus.connect(plain=("RootManageSharedAccessKey", "guess"))
    assert wire.peer.logged_in is False
    assert wire.connection.closed


# --------------------------------------------------------------------------- when tokens expire


def test_links_end_with_the_token_that_opened_them(bus: Bus) -> None:
    wire = bus.connect_for("q", lasts=100)
    names = [attach(wire) for attach in ATTACH.values()]
    wire.carry()
    assert wire.peer.attached >= set(names)
    bus.timers.advance(bus.clock, 101)
    wire.carry()
    for name in names:
        condition, description = refusal(wire, name)
        assert condition == "amqp:link:detach-forced"
        assert f"The link '{name}' is force detached. Code: RenewToken." in description
    assert "'Listen' claim(s) are required" in refusal(wire, names[1])[1]
    assert wire.peer.closed is None


def test_a_newer_token_keeps_them(bus: Bus) -> None:
    wire = bus.connect_for("q", lasts=100)
    name = wire.peer.receive_from("q")
    bus.timers.advance(bus.clock, 90)
    assert show(wire, "q", signature("q", lasts=500))[0] == 202
    bus.timers.advance(bus.clock, 300)
    wire.carry()
    assert name in wire.peer.attached
    bus.timers.advance(bus.clock, 200)
    wire.carry()
    assert refusal(wire, name)[0] == "amqp:link:detach-forced"


def test_a_token_for_something_wider_keeps_them_too(bus: Bus) -> None:
    wire = bus.connect_for("q", lasts=100)
    assert show(wire, "", signature("", lasts=500))[0] == 202
    name = wire.peer.receive_from("q")
    wire.carry()
    bus.timers.advance(bus.clock, 200)
    wire.carry()
    assert name in wire.peer.attached


def test_a_receiver_whose_token_expired_is_no_longer_in_the_queue(bus: Bus) -> None:
    wire = bus.connect_for("q", lasts=100)
    wire.peer.receive_from("q")
    wire.carry()
    assert bus.namespace.queue("q").waiting == 1
    bus.timers.advance(bus.clock, 101)
    assert bus.namespace.queue("q").waiting == 0
    assert not bus.namespace.queue("q").users


def test_nothing_that_comes_after_the_expiry_is_taken() -> None:
    """The broker's clock stands still here, as in a test: the next event finds out."""
    bus = Bus(clock=ManualClock())
    wire = bus.connect_for("q", lasts=100)
    handle = wire.peer.send_to("q", "sender")
    wire.carry()
    bus.wall.now += 101
    wire.peer.send(handle, BODY)
    wire.carry()
    assert bus.namespace.queue("q").counts().active == 0
    assert refusal(wire, "sender")[0] == "amqp:link:detach-forced"


def test_a_bus_whose_clock_is_moved_ends_no_token_before_its_time() -> None:
    bus = Bus(clock=ManualClock())
    wire = bus.connect_for("q", lasts=100)
    name = wire.peer.receive_from("q")
    wire.carry()
    bus.timers.advance(bus.clock, 1_000_000)
    wire.carry()
    assert name in wire.peer.attached


def test_no_alarm_is_left_when_the_links_are_gone(bus: Bus) -> None:
    wire = bus.connect_for("q", lasts=100)
    wire.peer.receive_from("q")
    wire.carry()
    assert bus.timers.next_due() is not None
    for event in wire.connection.lost():
        wire.container.handle(event)
    assert bus.timers.next_due() is None


# --------------------------------------------------------------------------- outcomes


@pytest.mark.parametrize(
    ("state", "applied", "left"),
    [(ACCEPTED, Accepted, 0), (RELEASED, Released, 1)],
    ids=["accepted", "released"],
)
def test_an_outcome_is_applied_and_confirmed_as_what_it_was(
    bus: Bus, state: bytes, applied: type[Outcome], left: int
) -> None:
    wire = bus.connect_for("q")
    name = wire.peer.receive_from("q")
    wire.peer.send(wire.peer.send_to("q"), BODY)
    wire.carry()
    assert len(wire.peer.received[name]) == 1
    wire.peer.outcomes.clear()
    wire.peer.received[name].clear()
    number = wire.peer.last_delivery
    wire.peer.write(Disposition(True, Uint(number), settled=False, state=Raw(state)))
    wire.carry()
    # Both are empty tuples, and so equal.
    assert {each: type(outcome) for each, outcome in wire.peer.outcomes.items()} == {number: applied}
    assert len(wire.peer.received[name]) == left  # what was released comes again


# --------------------------------------------------------------------------- who gets an answer


def test_answers_go_to_the_link_the_request_names(bus: Bus) -> None:
    wire = bus.connect_for("q")
    first = wire.peer.receive_from("q/$management", reply_to="one")
    second = wire.peer.receive_from("q/$management", reply_to="two")
    named = wire.peer.receive_from("q/$management", name="three")
    management = wire.peer.send_to("amqps://host/Q/$management")
    for reply_to, message_id in (("two", "b"), ("one", "a"), ("three", "c")):
        wire.peer.request(management, "com.microsoft:peek-message", PEEK, message_id, reply_to=reply_to)
    wire.carry()
    for link, message_id in ((first, "a"), (second, "b"), (named, "c")):
        [answer] = wire.peer.answers(link)
        assert (answer.correlation_id, answer.status) == (message_id, 204)


def test_without_a_name_the_newest_link_gets_the_answer(bus: Bus) -> None:
    wire = bus.connect_for("q")
    older, newer = (wire.peer.receive_from("q/$management") for _ in range(2))
    elsewhere = wire.peer.receive_from("p/$management")
    wire.peer.request(wire.peer.send_to("q/$management"), "com.microsoft:peek-message", PEEK)
    wire.carry()
    assert [len(wire.peer.answers(name)) for name in (older, newer, elsewhere)] == [0, 1, 0]


def test_an_answer_without_a_reply_link_is_dropped_and_logged(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    wire = bus.connect_for("q")
    number = wire.peer.request(wire.peer.send_to("q/$management"), "com.microsoft:peek-message", PEEK)
    with caplog.at_level(logging.WARNING, "servicebus_local"):
        wire.carry()
    assert wire.peer.outcomes[number] == Accepted()
    assert "an answer was dropped, no link receives from q/$management" in caplog.text


# --------------------------------------------------------------------------- $management


def ask(wire: Wire, path: str, operation: str, body: object, **properties: object) -> tuple[int, str | None]:
    """Send one request; return the status and the condition."""
    answers = wire.peer.receive_from(f"{path}/$management")
    management = wire.peer.send_to(f"{path}/$management")
    wire.peer.request(management, operation, body, **properties)
    wire.carry()
    [answer] = wire.peer.answers(answers)
    return answer.status, answer.condition


def test_an_unknown_operation_is_not_implemented(bus: Bus) -> None:
    wire = bus.connect_for("q")
    assert ask(wire, "q", "com.microsoft:fly", {}) == (501, "amqp:not-implemented")


def test_an_entity_that_was_deleted_is_not_found(bus: Bus) -> None:
    wire = bus.connect_for("q")
    answers, management = wire.peer.receive_from("q/$management"), wire.peer.send_to("q/$management")
    wire.carry()
    bus.namespace.delete("q")
    wire.peer.request(management, "com.microsoft:peek-message", PEEK)
    wire.carry()
    [answer] = wire.peer.answers(answers)
    assert (answer.status, answer.condition) == (404, "amqp:not-found")


def test_a_body_that_is_no_map_is_an_argument_error(bus: Bus) -> None:
    wire = bus.connect_for("q")
    assert ask(wire, "q", "com.microsoft:peek-message", "text") == (400, "com.microsoft:argument-error")


@pytest.mark.parametrize(
    ("policy", "key", "operation", "allowed"),
    [
        ("sender", "s", "schedule-message", True),
        ("sender", "s", "cancel-scheduled-message", True),
        ("sender", "s", "peek-message", False),
        ("sender", "s", "enumerate-rules", False),
        ("reader", "r", "peek-message", True),
        ("reader", "r", "renew-lock", True),
        ("reader", "r", "update-disposition", True),
        ("reader", "r", "enumerate-rules", True),
        ("reader", "r", "add-rule", True),
        ("reader", "r", "schedule-message", False),
    ],
)
def test_each_operation_takes_its_right(bus: Bus, policy: str, key: str, operation: str, allowed: bool) -> None:
    wire = bus.connect_for("news/Subscriptions/all", policy=policy, key=key)
    status, condition = ask(wire, "news/Subscriptions/all", f"com.microsoft:{operation}", {})
    assert (status != 401) is allowed
    assert (condition != "amqp:unauthorized-access") is allowed


def test_a_topic_is_asked_to_schedule_and_nothing_else(bus: Bus) -> None:
    wire = bus.connect_for("news")
    due = b"\x00\x53\x72\xc1\x28\x02\xa3\x1cx-opt-scheduled-enqueue-time\x83" + (1 << 50).to_bytes(8, "big")
    body = {"messages": [{"message-id": "m", "message": due + BODY}]}
    assert ask(wire, "news", "com.microsoft:schedule-message", body) == (200, None)
    assert ask(wire, "news", "com.microsoft:peek-message", PEEK) == (400, "amqp:not-allowed")
    assert bus.namespace.topic("news").counts().scheduled == 1


def test_a_subscription_cannot_be_scheduled_into(bus: Bus) -> None:
    wire = bus.connect_for("news")
    body = {"messages": [{"message": BODY}]}
    assert ask(wire, "news/Subscriptions/all", "com.microsoft:schedule-message", body) == (400, "amqp:not-allowed")


def test_the_link_a_request_is_for_must_hold_the_session(bus: Bus) -> None:
    wire = bus.connect_for("s")
    body = {"session-id": "one"}
    lost = (410, "com.microsoft:session-lock-lost")
    assert ask(wire, "s", "com.microsoft:renew-session-lock", body) == lost
    bus.namespace.queue("s").sessions.accept(Holder(), "one")
    assert ask(wire, "s", "com.microsoft:renew-session-lock", body) == (200, None)
    of_holder, of_other = {"associated-link-name": "holder"}, {"associated-link-name": "other"}
    assert ask(wire, "s", "com.microsoft:renew-session-lock", body, **of_holder) == (200, None)
    assert ask(wire, "s", "com.microsoft:renew-session-lock", body, **of_other) == lost


class Holder:
    """A receiver that holds a session."""

    name, container, deletes, sends, ready = "holder", "test", False, False, False

    def deliver(self, message: object, token: object, until: object) -> None:
        raise AssertionError("nothing is delivered here")

    def lost(self, error: object) -> None:
        """Learn that it is over."""


def test_an_empty_list_of_sessions_says_so_twice(bus: Bus) -> None:
    wire = bus.connect_for("s")
    body = {"last-updated-time": Timestamp(253402300800000), "skip": Int(0), "top": Int(100)}
    expected = (204, "com.microsoft:session-not-found")
    assert ask(wire, "s", "com.microsoft:get-message-sessions", body) == expected


def test_a_lost_lock_is_gone(bus: Bus) -> None:
    wire = bus.connect_for("q")
    body = {"lock-tokens": Array(0x98, [Uuid(b"\x01" * 16)])}
    expected = (410, "com.microsoft:message-lock-lost")
    assert ask(wire, "q", "com.microsoft:renew-lock", body) == expected
    assert ask(wire, "q", "com.microsoft:update-disposition", body | {"disposition-status": "completed"}) == expected


def test_keys_of_a_body_may_be_symbols(bus: Bus) -> None:
    wire = bus.connect_for("q")
    body = {Symbol(name): value for name, value in PEEK.items()}
    assert ask(wire, "q", "com.microsoft:peek-message", body) == (204, None)
