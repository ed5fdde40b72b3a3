"""Addresses, tokens and requests, as nodes see them."""

import base64
import hmac
from urllib.parse import quote

import pytest

from local.broker.amqp.types import Array, Timestamp, Uuid
from local.broker.bus.clock import ManualClock, Timers
from local.broker.bus.errors import InvalidArgument, MessageLockLost, Unauthorized
from local.broker.bus.queue import Queue, QueueOptions
from local.broker.nodes.addresses import Address, covers, read_address
from local.broker.nodes.cbs import Keys
from local.broker.nodes.management import OPERATIONS, Request


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("orders", Address("orders")),
        ("/orders/", Address("orders")),
        ("amqps://127.0.0.1:5672/orders", Address("orders")),
        ("sb://host/a/b/$DeadLetterQueue", Address("a/b/$DeadLetterQueue")),
        ("orders/$management", Address("orders", management=True)),
        ("amqps://h/orders/$DeadLetterQueue/$Management", Address("orders/$DeadLetterQueue", management=True)),
        ("$cbs", Address("$cbs")),
        ("sb://host:1", Address("")),
        (None, Address("")),
    ],
)
def test_addresses_are_read_with_or_without_a_host(address: str | None, expected: Address) -> None:
    assert read_address(address) == expected


def test_a_token_opens_its_entity_and_what_is_below_it() -> None:
    assert covers("orders", "Orders/$DeadLetterQueue")
    assert covers("", "orders")
    assert not covers("orders", "orders-2")
    assert not covers("orders/$DeadLetterQueue", "orders")


def token(resource: str, key: str = "local", expiry: str = "2000", name: str = "root") -> str:
    signed = hmac.digest(key.encode(), f"{resource}\n{expiry}".encode(), "sha256")
    signature = quote(base64.b64encode(signed).decode(), safe="")
    return f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn={name}"


KEYS = Keys({"root": ("local", "other")}, ManualClock(1000))
RESOURCE = quote("sb://host:1/orders", safe="")


def test_a_signature_by_any_key_of_the_policy_is_good() -> None:
    for key in ("local", "other"):
        KEYS.check(token(RESOURCE, key))


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (token(RESOURCE, "guess"), "invalid signature"),
        (token(RESOURCE, name="nobody"), "invalid signature"),
        (token(RESOURCE).replace("se=2000", "se=3000"), "invalid signature"),
        (token(RESOURCE, expiry="1000"), "expired"),
        (token(RESOURCE, expiry="soon"), "expired"),
        ("SharedAccessSignature sr=x", "invalid signature"),
        ("eyJhbGciOi", "Only shared access signatures"),
        ("", "Only shared access signatures"),
    ],
)
def test_other_tokens_are_not(shown: str, reason: str) -> None:
    with pytest.raises(Unauthorized, match=reason):
        KEYS.check(shown)


def test_every_operation_of_the_protocol_is_there() -> None:
    assert {name.removeprefix("com.microsoft:") for name in OPERATIONS} == {
        "renew-lock",
        "peek-message",
        "schedule-message",
        "cancel-scheduled-message",
        "receive-by-sequence-number",
        "update-disposition",
        "renew-session-lock",
        "get-session-state",
        "set-session-state",
        "get-message-sessions",
    }


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_a_request_without_its_fields_is_an_argument_error(operation: str) -> None:
    queue = Queue("q", QueueOptions(), Timers(ManualClock(0)))
    if operation.endswith("get-message-sessions"):  # all its fields may be left out
        assert OPERATIONS[operation](queue, Request({}, None)) is None
        return
    with pytest.raises(InvalidArgument):
        OPERATIONS[operation](queue, Request({}, None))
    with pytest.raises(InvalidArgument):
        Request("no map", None)


def test_an_unknown_lock_is_lost() -> None:
    queue = Queue("q", QueueOptions(), Timers(ManualClock(0)))
    request = Request({"lock-tokens": Array(0x98, [Uuid(b"\x01" * 16)])}, None)
    with pytest.raises(MessageLockLost):
        OPERATIONS["com.microsoft:renew-lock"](queue, request)


def test_scheduled_messages_get_numbers_and_can_be_peeked() -> None:
    queue = Queue("q", QueueOptions(), Timers(ManualClock(0)))
    due = b"\x00\x53\x72\xc1\x28\x02\xa3\x1cx-opt-scheduled-enqueue-time\x83" + (9000).to_bytes(8, "big")
    body = {"messages": [{"message-id": "m", "message": due + b"\x00\x53\x75\xa0\x01x"}]}
    answer = OPERATIONS["com.microsoft:schedule-message"](queue, Request(body, None))
    assert answer == {"sequence-numbers": [1]}
    peek = Request({"from-sequence-number": 0, "message-count": 5}, None)
    peeked = OPERATIONS["com.microsoft:peek-message"](queue, peek)
    assert peeked is not None
    assert len(peeked["messages"]) == 1
    assert queue.messages[1].scheduled_for == 9.0
    assert Timestamp(1) == 1
