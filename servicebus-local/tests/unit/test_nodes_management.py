"""The operations of $management: what each takes, what it answers, and what it refuses."""

from typing import Any

import pytest

from servicebus_local.amqp.types import Array, Described, Int, Symbol, Timestamp, Uint, Uuid, encode
from servicebus_local.bus.clock import ManualClock, Timers
from servicebus_local.bus.errors import (
    BusError,
    EntityExists,
    EntityNotFound,
    InvalidArgument,
    MessageLockLost,
    MessageNotFound,
    NotAllowed,
    SessionLockLost,
)
from servicebus_local.bus.filters import CorrelationFilter, FalseFilter, Rule, SqlAction, SqlFilter, TrueFilter
from servicebus_local.bus.message import Message, read, read_body
from servicebus_local.bus.messaging_entity import MessagingEntity
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.queue import Queue
from servicebus_local.bus.topology import QueueOptions, SubscriptionDefinition, TopicDefinition, Topology
from servicebus_local.nodes.operations import OPERATIONS
from servicebus_local.nodes.request import Request
from servicebus_local.nodes.rules import describe, read_rule

NOW = 1000.0
BODY = b"\x00\x53\x75\xa0\x04body"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def namespace(clock: ManualClock) -> Namespace:
    queues = {"q": QueueOptions(), "s": QueueOptions(requires_session=True)}
    topics = {"news": TopicDefinition(subscriptions={"all": SubscriptionDefinition()})}
    return Namespace(Topology(queues, topics), Timers(clock))


@pytest.fixture
def queue(namespace: Namespace) -> Queue:
    return namespace.queue("q")


@pytest.fixture
def sessions(namespace: Namespace) -> Queue:
    return namespace.queue("s")


def run(entity: MessagingEntity, operation: str, link_name: str | None = None, **fields: Any) -> Any:
    """Run an operation; dashes in the names of fields are underscores here."""
    body = {name.replace("_", "-"): value for name, value in fields.items()}
    return OPERATIONS[f"com.microsoft:{operation}"].run(entity, Request(body, link_name))


class Consumer:
    """A receiver that takes everything."""

    container, sends, deletes, ready = "test", False, False, True

    def __init__(self, name: str = "link") -> None:
        self.name = name
        self.taken: list[tuple[Message, bytes | None]] = []

    def deliver(self, message: Message, token: bytes | None, until: float | None) -> None:
        """Keep what is delivered."""
        self.taken.append((message, token))

    def lost(self, error: BusError) -> None:
        """Learn that it is over."""

    @property
    def tokens(self) -> Array:
        """The locks on what was delivered, as a request has them."""
        return Array(0x98, [Uuid(token) for _, token in self.taken if token is not None])


def send(queue: Queue, *bodies: str, session_id: str | None = None) -> list[int]:
    """Send messages; return their numbers."""
    group = b"\x00\x53\x73" + encode([None] * 10 + [session_id]) if session_id else b""
    application = b"\x00\x53\x74" + encode({"k": "v"})
    return [
        number
        for body in bodies
        for number in queue.send([read(group + application + b"\x00\x53\x75" + encode(body.encode()))])
    ]


def receive(queue: Queue) -> Consumer:
    """Lock everything there is."""
    consumer = Consumer()
    queue.dispatch(queue.subscribe(consumer))
    queue.unsubscribe(consumer)
    return consumer


# --------------------------------------------------------------------------- all of them


def test_every_operation_of_the_protocol_is_there() -> None:
    assert {name.removeprefix("com.microsoft:") for name in OPERATIONS} == {
        "add-rule",
        "batch-delete-messages",
        "cancel-scheduled-message",
        "enumerate-rules",
        "get-message-sessions",
        "get-session-state",
        "peek-message",
        "receive-by-sequence-number",
        "remove-rule",
        "renew-lock",
        "renew-session-lock",
        "schedule-message",
        "set-session-state",
        "update-disposition",
    }


@pytest.mark.parametrize("operation", sorted(set(OPERATIONS) - {"com.microsoft:enumerate-rules"}))
def test_a_request_without_its_fields_is_an_argument_error(namespace: Namespace, operation: str) -> None:
    kind = OPERATIONS[operation].kind
    entity = namespace.subscription("news", "all") if kind.__name__ == "Subscription" else namespace.queue("s")
    if operation.endswith("get-message-sessions"):  # all its fields may be left out
        assert OPERATIONS[operation].run(entity, Request({})) is None
        return
    with pytest.raises(InvalidArgument, match=r"The field '[a-z-]+' "):
        OPERATIONS[operation].run(entity, Request({}))


@pytest.mark.parametrize("body", [None, "text", 5, [], b"x"])
def test_a_body_must_be_a_map(body: object) -> None:
    with pytest.raises(InvalidArgument, match="must be a map"):
        Request(body)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"from_sequence_number": "1", "message_count": 1}, "'from-sequence-number' must be an integer"),
        ({"from_sequence_number": True, "message_count": 1}, "'from-sequence-number' must be an integer"),
        ({"from_sequence_number": 1}, "'message-count' is missing"),
        ({"from_sequence_number": 1, "message_count": 0}, "'message-count' must be at least 1"),
        ({"from_sequence_number": 1, "message_count": -1}, "'message-count' must not be negative"),
        ({"from_sequence_number": 1, "message_count": 1, "session_id": 7}, "'session-id' must be a string"),
        ({"from_sequence_number": 1, "message_count": 1, "omit_message_body": 1}, "must be a boolean"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(queue: Queue, fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        run(queue, "peek-message", **fields)


@pytest.mark.parametrize("tokens", [None, [], Array(0x98), "x", [5], [b"short"], [True], Uuid(b"\x01" * 16)])
def test_lock_tokens_are_an_array_of_uuids(queue: Queue, tokens: object) -> None:
    with pytest.raises(InvalidArgument, match="'lock-tokens'"):
        run(queue, "renew-lock", lock_tokens=tokens)


# --------------------------------------------------------------------------- messages


def test_renewing_answers_with_one_time_for_each_lock(queue: Queue, clock: ManualClock) -> None:
    send(queue, "a", "b")
    tokens = receive(queue).tokens
    clock.now += 30
    answer = run(queue, "renew-lock", lock_tokens=tokens)
    assert answer == {"expirations": [1_090_000, 1_090_000]}
    assert encode(answer["expirations"])[9] == 0x83


def test_a_lock_that_is_lost_cannot_be_renewed(queue: Queue) -> None:
    with pytest.raises(MessageLockLost):
        run(queue, "renew-lock", lock_tokens=Array(0x98, [Uuid(b"\x01" * 16)]))


def test_peeking_shows_messages_in_any_state_from_a_number_on(queue: Queue) -> None:
    numbers = send(queue, "a", "b", "c")
    receive(queue)
    shown = run(queue, "peek-message", from_sequence_number=numbers[1], message_count=Int(5))
    assert [read_body(entry["message"])[2] for entry in shown["messages"]] == [b"b", b"c"]
    assert len(run(queue, "peek-message", from_sequence_number=0, message_count=2)["messages"]) == 2
    assert run(queue, "peek-message", from_sequence_number=numbers[2] + 1, message_count=2) is None


def test_peeking_can_be_done_without_the_bodies(queue: Queue) -> None:
    send(queue, "a")
    [entry] = run(queue, "peek-message", from_sequence_number=0, message_count=1, omit_message_body=True)["messages"]
    _, application, body = read_body(entry["message"])
    assert (application, body) == ({"k": "v"}, None)
    assert b"x-opt-sequence-number" in entry["message"]


def test_peeking_can_be_done_in_one_session(sessions: Queue) -> None:
    send(sessions, "a", session_id="one")
    send(sessions, "b", session_id="two")
    shown = run(sessions, "peek-message", from_sequence_number=0, message_count=9, session_id="two")
    assert [read_body(entry["message"])[2] for entry in shown["messages"]] == [b"b"]


def due(seconds: int) -> bytes:
    """A message that is to appear then."""
    at = (seconds * 1000).to_bytes(8, "big")
    return b"\x00\x53\x72\xc1\x28\x02\xa3\x1cx-opt-scheduled-enqueue-time\x83" + at + BODY


def test_scheduled_messages_get_numbers_and_can_be_cancelled(queue: Queue) -> None:
    messages = [{"message-id": "m", "message": due(2000)}, {"message-id": "n", "message": due(3000)}]
    answer = run(queue, "schedule-message", messages=messages)
    assert answer == {"sequence-numbers": [1, 2]}
    assert encode(answer["sequence-numbers"])[9] == 0x81
    assert run(queue, "cancel-scheduled-message", sequence_numbers=Array(0x81, [1])) == {}
    assert queue.counts().scheduled == 1
    with pytest.raises(MessageNotFound):
        run(queue, "cancel-scheduled-message", sequence_numbers=[1])


@pytest.mark.parametrize("messages", [None, [], ["x"], [{}], [{"message": "text"}], {"message": b""}])
def test_what_is_scheduled_must_be_messages(queue: Queue, messages: object) -> None:
    with pytest.raises(InvalidArgument):
        run(queue, "schedule-message", messages=messages)


@pytest.mark.parametrize("numbers", [None, [], ["1"], [True], 1])
def test_sequence_numbers_are_integers(queue: Queue, numbers: object) -> None:
    for operation in ("cancel-scheduled-message", "receive-by-sequence-number"):
        with pytest.raises(InvalidArgument, match="'sequence-numbers'"):
            run(queue, operation, sequence_numbers=numbers, receiver_settle_mode=Uint(1))


def deferred(queue: Queue) -> int:
    """Send a message and defer it; return its number."""
    [number] = send(queue, "a")
    [(_, token)] = receive(queue).taken
    assert token is not None
    queue.defer(token)
    return number


def test_deferred_messages_are_received_with_a_lock(queue: Queue) -> None:
    number = deferred(queue)
    [entry] = run(queue, "receive-by-sequence-number", sequence_numbers=[number, number], receiver_settle_mode=1)[
        "messages"
    ]
    assert set(entry) == {"message", "lock-token"}
    tokens = Array(0x98, [entry["lock-token"]])
    assert run(queue, "update-disposition", lock_tokens=tokens, disposition_status="completed") == {}
    assert queue.counts().active == 0


def test_or_without_one_and_are_gone(queue: Queue) -> None:
    number = deferred(queue)
    numbers = Array(0x81, [number, number])
    [entry] = run(queue, "receive-by-sequence-number", sequence_numbers=numbers, receiver_settle_mode=0)["messages"]
    assert set(entry) == {"message"}
    assert queue.counts().active == 0


@pytest.mark.parametrize("mode", [2, -1])
def test_there_are_two_settle_modes(queue: Queue, mode: int) -> None:
    with pytest.raises(InvalidArgument, match="must be 0 or 1"):
        run(queue, "receive-by-sequence-number", sequence_numbers=[1], receiver_settle_mode=mode)


@pytest.mark.parametrize(
    ("status", "fields", "active", "dead"),
    [
        ("completed", {}, 0, 0),
        ("abandoned", {"properties_to_modify": {"k": "changed"}}, 1, 0),
        ("defered", {"properties_to_modify": {"k": "changed"}}, 1, 0),
        (
            "suspended",
            {"deadletter_reason": "r", "deadletter_description": "d", "properties_to_modify": {"k": 1}},
            0,
            1,
        ),
    ],
)
def test_messages_are_settled_by_their_locks(
    queue: Queue, status: str, fields: dict[str, Any], active: int, dead: int
) -> None:
    send(queue, "a")
    tokens = receive(queue).tokens
    tokens.append(tokens[0])
    assert run(queue, "update-disposition", lock_tokens=tokens, disposition_status=status, **fields) == {}
    assert (queue.counts().active, queue.counts().dead_lettered) == (active, dead)
    for message in (*queue.messages.values(), *queue.dead_letters.messages.values()):
        application = read_body(message.bare)[1]
        assert application["k"] == fields["properties_to_modify"]["k"]
        assert application.get("DeadLetterReason") == fields.get("deadletter_reason")


@pytest.mark.parametrize(
    "changes", [{5: "x"}, {"k": ["list"]}, {"k": {}}, {"k": Described("d", 1)}, {"k": Array(0x81)}]
)
def test_properties_that_no_message_can_have_settle_nothing(queue: Queue, changes: dict[Any, Any]) -> None:
    send(queue, "a")
    tokens = receive(queue).tokens
    fields: dict[str, Any] = {"lock_tokens": tokens, "disposition_status": "abandoned"}
    with pytest.raises(InvalidArgument, match="must map strings to simple values"):
        run(queue, "update-disposition", properties_to_modify=changes, **fields)
    assert run(queue, "update-disposition", **fields) == {}


def test_an_unknown_status_is_an_argument_error(queue: Queue) -> None:
    send(queue, "a")
    with pytest.raises(InvalidArgument, match="'renewed'"):
        run(queue, "update-disposition", lock_tokens=receive(queue).tokens, disposition_status="renewed")


def test_the_oldest_messages_are_deleted_unless_they_are_locked(queue: Queue, clock: ManualClock) -> None:
    send(queue, "locked")
    receive(queue)
    send(queue, "a", "b", "c")
    clock.now += 10
    send(queue, "new")
    before = Timestamp(int(NOW + 5) * 1000)
    assert run(queue, "batch-delete-messages", message_count=Int(2), enqueued_time_utc=before) == {"message-count": 2}
    assert run(queue, "batch-delete-messages", message_count=Int(9), enqueued_time_utc=before) == {"message-count": 1}
    assert run(queue, "batch-delete-messages", message_count=Int(9), enqueued_time_utc=before) is None
    assert queue.counts().active == 2


@pytest.mark.parametrize("count", [0, 4001])
def test_a_batch_to_delete_has_a_size(queue: Queue, count: int) -> None:
    with pytest.raises(InvalidArgument, match="between 1 and 4000"):
        run(queue, "batch-delete-messages", message_count=count, enqueued_time_utc=Timestamp(0))


# --------------------------------------------------------------------------- sessions


def test_a_held_session_is_renewed_and_remembers(sessions: Queue, clock: ManualClock) -> None:
    sessions.accept_session(Consumer("mine"), "one")
    clock.now += 30
    fields = {"session_id": "one", "link_name": "mine"}
    assert run(sessions, "renew-session-lock", **fields) == {"expiration": 1_090_000}
    assert run(sessions, "get-session-state", **fields) == {"session-state": None}
    assert run(sessions, "set-session-state", session_state=b"half", **fields) == {}
    assert run(sessions, "get-session-state", **fields) == {"session-state": b"half"}
    assert run(sessions, "set-session-state", session_state=None, **fields) == {}
    assert run(sessions, "get-session-state", **fields) == {"session-state": None}


@pytest.mark.parametrize(
    "operation",
    [
        "renew-session-lock",
        "get-session-state",
        "set-session-state",
        "receive-by-sequence-number",
        "batch-delete-messages",
    ],
)
def test_a_session_that_another_link_holds_is_lost(sessions: Queue, operation: str) -> None:
    sessions.accept_session(Consumer("theirs"), "one")
    others = {"sequence_numbers": [1], "receiver_settle_mode": 1, "message_count": 1, "enqueued_time_utc": 0}
    with pytest.raises(SessionLockLost):
        run(sessions, operation, session_id="one", link_name="mine", **others)


@pytest.mark.parametrize("operation", ["renew-session-lock", "get-session-state", "set-session-state"])
def test_a_queue_without_sessions_has_none(queue: Queue, operation: str) -> None:
    with pytest.raises(NotAllowed, match="does not require sessions"):
        run(queue, operation, session_id="one")


def test_deferred_messages_of_a_session_go_to_its_holder(sessions: Queue) -> None:
    [number] = send(sessions, "a", session_id="one")
    consumer = Consumer("mine")
    sessions.dispatch(sessions.accept_session(consumer, "one"))
    [(_, token)] = consumer.taken
    assert token is not None
    sessions.defer(token)
    fields = {"sequence_numbers": [number], "receiver_settle_mode": 1}
    [entry] = run(sessions, "receive-by-sequence-number", "mine", session_id="one", **fields)["messages"]
    assert read_body(entry["message"])[2] == b"a"


def test_a_session_can_be_emptied(sessions: Queue) -> None:
    send(sessions, "a", session_id="one")
    send(sessions, "b", session_id="two")
    sessions.accept_session(Consumer("mine"), "one")
    fields = {"message_count": 9, "enqueued_time_utc": Timestamp(2_000_000)}
    answer = run(sessions, "batch-delete-messages", "mine", session_id="one", **fields)
    assert answer == {"message-count": 1}
    assert [message.session_id for message in sessions.messages.values()] == ["two"]


def test_an_emptied_or_expired_session_is_not_next_available(
    sessions: Queue, namespace: Namespace, clock: ManualClock
) -> None:
    holder = Consumer("mine")
    send(sessions, "a", session_id="one")
    sessions.accept_session(holder, "one")
    run(sessions, "batch-delete-messages", "mine", session_id="one", message_count=9, enqueued_time_utc=9_000_000)
    sessions.unsubscribe(holder)
    brief = b"\x00\x53\x70" + encode([None, None, Uint(1000)]) + b"\x00\x53\x73" + encode([None] * 10 + ["two"])
    sessions.send([read(brief + BODY)])
    namespace.timers.advance(clock, 5)
    granted: list[str] = []
    sessions.accept_next_session(Consumer(), 60, lambda session: granted.append(session.id))
    assert granted == []
    send(sessions, "b", session_id="three")
    assert granted == ["three"]


def test_sessions_are_listed_a_page_at_a_time(sessions: Queue) -> None:
    for name in ("a", "b", "c"):
        send(sessions, "x", session_id=name)
    fields: dict[str, Any] = {"last_updated_time": Timestamp(253402300800000), "top": Int(2)}
    first = run(sessions, "get-message-sessions", skip=Int(0), **fields)
    assert first == {"skip": 2, "sessions-ids": ["a", "b"]}
    assert encode(first["sessions-ids"])[0] == 0xF0
    assert run(sessions, "get-message-sessions", skip=Int(2), **fields) == {"skip": 3, "sessions-ids": ["c"]}
    assert run(sessions, "get-message-sessions", skip=Int(3), **fields) is None
    assert run(sessions, "get-message-sessions", skip=Int(0), top=Int(0)) is None
    with pytest.raises(InvalidArgument, match="'skip'"):
        run(sessions, "get-message-sessions", skip=Int(-1), **fields)


def test_or_those_whose_state_changed_since_a_moment(sessions: Queue, clock: ManualClock) -> None:
    for name in ("old", "new"):
        run_with_session(sessions, name)
        clock.now += 100
    since = Timestamp(int(NOW + 50) * 1000)
    assert run(sessions, "get-message-sessions", last_updated_time=since) == {"skip": 1, "sessions-ids": ["new"]}


def run_with_session(sessions: Queue, name: str) -> None:
    """Give a session a state."""
    consumer = Consumer(name)
    sessions.accept_session(consumer, name)
    run(sessions, "set-session-state", session_id=name, session_state=b"x")
    sessions.unsubscribe(consumer)


# --------------------------------------------------------------------------- rules


RULES = [
    (Rule("t", TrueFilter()), {"sql-filter": {"expression": "1=1"}}),
    (Rule("s", SqlFilter("a = 1")), {"sql-filter": {"expression": "a = 1"}, "sql-rule-action": None}),
    (
        Rule("a", SqlFilter("a = 1"), SqlAction("SET b = 2")),
        {"sql-filter": {"expression": "a = 1"}, "sql-rule-action": {"expression": "SET b = 2"}},
    ),
    (
        Rule("c", CorrelationFilter(label="l", properties={"p": 1})),
        {"correlation-filter": {"label": "l", "to": None, "properties": {"p": 1}}},
    ),
    (
        Rule(
            "all",
            CorrelationFilter(
                correlation_id="1",
                message_id="2",
                to="3",
                reply_to="4",
                label="5",
                session_id="6",
                reply_to_session_id="7",
                content_type="8",
            ),
        ),
        {
            "correlation-filter": {
                "correlation-id": "1",
                "message-id": "2",
                "to": "3",
                "reply-to": "4",
                "label": "5",
                "session-id": "6",
                "reply-to-session-id": "7",
                "content-type": "8",
                "properties": None,
            }
        },
    ),
]


@pytest.mark.parametrize(("rule", "description"), RULES[1:])
def test_a_rule_is_read_as_the_sdks_write_it(rule: Rule, description: dict[str, Any]) -> None:
    assert read_rule(rule.name, {Symbol(name): value for name, value in description.items()}) == rule


@pytest.mark.parametrize(
    ("description", "complaint"),
    [
        ({}, "either a 'sql-filter' or a 'correlation-filter'"),
        ({"sql-filter": {"expression": "a=1"}, "correlation-filter": {"label": "l"}}, "either"),
        ({"sql-filter": "a=1"}, "'sql-filter' must be a map"),
        ({"sql-filter": {}}, "'sql-filter' needs an 'expression'"),
        ({"sql-filter": {"expression": 5}}, "'expression' must be a string"),
        ({"sql-filter": {"expression": "a ="}}, None),
        ({"sql-filter": {"expression": "a=1"}, "sql-rule-action": {"expression": "DROP x"}}, None),
        ({"correlation-filter": {}}, "must name at least one property"),
        ({"correlation-filter": {"label": 5}}, "'label' must be a string"),
        ({"correlation-filter": {"properties": ["x"]}}, "'properties' must be a map"),
        ({"correlation-filter": {"properties": {"x": []}}}, "must map strings to simple values"),
    ],
)
def test_other_descriptions_are_argument_errors(description: dict[str, Any], complaint: str | None) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        read_rule("r", description)


@pytest.mark.parametrize(
    ("rule", "filter_code", "filter_fields", "action"),
    [
        (Rule("r", TrueFilter()), 83483426823, [], (1335734829061, [])),
        (Rule("r", FalseFilter()), 83483426824, [], (1335734829061, [])),
        (Rule("r", SqlFilter("a=1")), 83483426822, ["a=1"], (1335734829061, [])),
        (Rule("r", SqlFilter("a=1"), SqlAction("SET b=2")), 83483426822, ["a=1"], (1335734829062, ["SET b=2"])),
        (
            Rule("r", CorrelationFilter(message_id="m", properties={"p": "v"})),
            83483426825,
            [None, "m", None, None, None, None, None, None, {"p": "v"}],
            (1335734829061, []),
        ),
    ],
)
def test_a_rule_is_written_with_the_numbers_the_sdks_compare_with(
    rule: Rule, filter_code: int, filter_fields: list[Any], action: tuple[int, list[Any]]
) -> None:
    expected = Described(1335734829060, [Described(filter_code, filter_fields), Described(*action), "r"])
    assert describe(rule) == expected


def test_a_rule_says_when_it_was_made_if_that_is_known(namespace: Namespace) -> None:
    subscription = namespace.subscription("news", "all")
    run(subscription, "add-rule", rule_name="mine", rule_description={"sql-filter": {"expression": "a = 1"}})
    [_, entry] = run(subscription, "enumerate-rules")["rules"]
    assert entry["rule-description"].value[3] == Timestamp(1_000_000)


def test_rules_are_added_listed_and_removed(namespace: Namespace) -> None:
    subscription = namespace.subscription("news", "all")
    description = {"sql-filter": {"expression": "a = 1"}}
    assert run(subscription, "add-rule", rule_name="mine", rule_description=description) == {}
    names = [entry["rule-description"].value[2] for entry in run(subscription, "enumerate-rules")["rules"]]
    assert names == ["$Default", "mine"]
    [second] = run(subscription, "enumerate-rules", skip=Int(1), top=Int(2**31 - 1))["rules"]
    assert second["rule-description"].value[2] == "mine"
    assert run(subscription, "enumerate-rules", skip=Int(2), top=Int(5)) is None
    assert run(subscription, "remove-rule", rule_name="MINE") == {}
    assert list(subscription.rules) == ["$default"]


def test_a_rule_that_is_there_or_is_not(namespace: Namespace) -> None:
    subscription = namespace.subscription("news", "all")
    description = {"sql-filter": {"expression": "a = 1"}}
    with pytest.raises(EntityExists):
        run(subscription, "add-rule", rule_name="$default", rule_description=description)
    with pytest.raises(EntityNotFound):
        run(subscription, "remove-rule", rule_name="none")
    with pytest.raises(InvalidArgument):
        run(subscription, "add-rule", rule_name="", rule_description=description)
