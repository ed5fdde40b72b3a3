import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.exceptions import DeserializationError
from azure.servicebus.management import QueueProperties

from ops.checks.clock import clock, skew
from ops.checks.configuration import unknown_deployments
from ops.checks.queues import entity, topology_faults
from ops.checks.redis import redis_refusal, redis_version
from ops.checks.settings import unread_variables
from ops.commands.doctor import _in_time, _split
from ops.commands.queues import administration
from ops.errors import CommandError
from ops.findings import Finding, Level
from ops.target import Target
from shared.access.use_cases import UseCase
from shared.contracts.queues import DEAD, Queue, topology

WINDOW = timedelta(minutes=10)
QUEUES = {queue.name: queue for queue in topology(["ask"], ["answers"])}


def deployed(queue: Queue, **more: Any) -> QueueProperties:
    """`queue` as Azure would describe it."""
    forward = queue.forward_dead_letters_to
    given: dict[str, Any] = {
        "requires_session": queue.sessions,
        "requires_duplicate_detection": queue.duplicate_window is not None,
        "duplicate_detection_history_time_window": queue.duplicate_window or timedelta(minutes=10),
        "dead_lettering_on_message_expiration": queue.dead_letter_on_expiry,
        "forward_dead_lettered_messages_to": f"https://shop.servicebus.windows.net/{forward}" if forward else None,
        "lock_duration": queue.lock,
        "max_delivery_count": queue.max_delivery_count,
    }
    nothing = dict.fromkeys(_FIELDS)
    return QueueProperties(queue.name, **{**nothing, **given, **more})


_FIELDS = (
    "authorization_rules auto_delete_on_idle dead_lettering_on_message_expiration default_message_time_to_live "
    "duplicate_detection_history_time_window availability_status enable_batched_operations enable_express "
    "enable_partitioning lock_duration max_delivery_count max_size_in_megabytes requires_duplicate_detection "
    "requires_session status forward_to user_metadata forward_dead_lettered_messages_to "
    "max_message_size_in_kilobytes"
).split()


def test_the_topology_as_it_is_meant_has_no_faults() -> None:
    actual = {name: deployed(queue) for name, queue in QUEUES.items()}
    assert list(topology_faults(QUEUES.values(), actual, WINDOW)) == []


def test_a_missing_queue_is_named() -> None:
    actual = {name: deployed(queue) for name, queue in QUEUES.items() if name != DEAD}
    [fault] = topology_faults(QUEUES.values(), actual, WINDOW)
    assert (fault.level, fault.said) == (Level.FAIL, "dead is missing")


def test_a_reply_that_the_sdk_cannot_read_is_not_called_a_wrong_variable() -> None:
    local = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true"
    target = Target({"RAGBUS_SERVICEBUS_CONNECTION_STRING": local}, "a test")
    with pytest.raises(CommandError, match=r"^the SDK cannot read the reply .*: P1X$"), administration(target):
        raise DeserializationError("cannot deserialize") from ValueError("P1X")
    with (
        pytest.raises(CommandError, match=r"^RAGBUS_SERVICEBUS_CONNECTION_STRING or .*: port$"),
        administration(target),
    ):
        raise ValueError("port")


@pytest.mark.parametrize(
    ("changed", "level", "said"),
    [
        ({"requires_session": True}, Level.FAIL, "requires sessions: on, must be off"),
        ({"requires_duplicate_detection": False}, Level.FAIL, "duplicate detection: off, must be on"),
        ({"forward_dead_lettered_messages_to": None}, Level.FAIL, "forwards dead letters to: nowhere, must be dead"),
        ({"dead_lettering_on_message_expiration": False}, Level.FAIL, "dead-lettering on expiry: off, must be on"),
        ({"duplicate_detection_history_time_window": timedelta(minutes=5)}, Level.FAIL, "duplicate window 0:05:00"),
        ({"lock_duration": timedelta(seconds=30)}, Level.WARN, "lock 0:00:30, should be 0:01:00"),
        ({"max_delivery_count": 3}, Level.WARN, "max delivery count 3, should be 10"),
    ],
)
def test_a_queue_with_other_settings_is_named(changed: dict[str, Any], level: Level, said: str) -> None:
    queue = QUEUES["retrieve"]
    [fault] = topology_faults([queue], {"retrieve": deployed(queue, **changed)}, WINDOW)
    assert fault.level is level
    assert fault.said.startswith(f"retrieve: {said}")


def test_an_ingress_queue_with_a_long_duplicate_window_is_named() -> None:
    long = deployed(QUEUES["ask"], duplicate_detection_history_time_window=timedelta(minutes=10))
    [fault] = topology_faults([QUEUES["ask"]], {"ask": long}, WINDOW)
    assert (fault.level, fault.said[:31]) == (Level.WARN, "ask: duplicate window 0:10:00, ")


def test_a_short_window_is_no_fault_when_the_gateway_knows_of_it() -> None:
    short = replace(QUEUES["retrieve"], duplicate_window=timedelta(minutes=5))
    assert list(topology_faults([short], {"retrieve": deployed(short)}, timedelta(minutes=5))) == []


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("5.0.7", Level.FAIL),
        ("6.0.16", Level.FAIL),
        ("6.2.0", Level.OK),
        ("7.2.4", Level.OK),
        ("10.0", Level.OK),
        ("?", Level.FAIL),
    ],
)
def test_redis_must_be_new_enough(version: str, level: Level) -> None:
    assert redis_version(version).level is level


@pytest.mark.parametrize(
    ("seconds", "level"), [(0, Level.OK), (-29, Level.OK), (29, Level.OK), (31, Level.FAIL), (-3600, Level.FAIL)]
)
def test_clocks_may_not_be_far_apart(seconds: int, level: Level) -> None:
    now = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC) + timedelta(seconds=seconds)
    assert skew("Sun, 22 Nov 2026 12:00:00 GMT", now, "the broker").level is level


@pytest.mark.parametrize(
    ("address", "name"),
    [("https://x.servicebus.windows.net/dead", "dead"), ("dead", "dead"), ("sb://h/a/", "a"), (None, "")],
)
def test_an_address_ends_in_its_queue(address: str | None, name: str) -> None:
    assert entity(address) == name


def test_a_fault_and_its_fix_are_separated() -> None:
    assert _split("it is gone; start it: now", "; ") == ("it is gone", "start it: now")
    assert _split("it is gone: start it", ": ") == ("it is gone", "start it")
    assert _split("it is gone", "; ") == ("it is gone", "")


def test_the_text_of_another_program_is_not_a_fix() -> None:
    assert _split("it does not answer: OSError(111, 'refused')", "; ")[1] == ""
    assert _split("it said: no; never; start it", "; ") == ("it said: no; never", "start it")


def test_a_deployment_that_no_chat_model_has_is_named() -> None:
    use_case = UseCase(name="travel", collection="c", prompt="p", deployments=("a", "b"), context_window=4000)
    [finding] = unknown_deployments([use_case], ["a", "c"])
    assert finding.level is Level.FAIL
    assert finding.said == "use case travel: deployments: models.yaml has no chat deployment 'b'"
    assert finding.fix == "use one of: a, c"
    assert list(unknown_deployments([use_case], ["a", "b"])) == []


def test_without_a_date_header_there_is_no_finding_about_the_clock() -> None:
    dead = "http://127.0.0.1:1"
    connection = "Endpoint=sb://127.0.0.1:1;SharedAccessKey=x;UseDevelopmentEmulator=true"
    variables = {
        "RAGBUS_SERVICEBUS_CONNECTION_STRING": connection,
        "RAGBUS_ADMIN_URL": dead,
        "RAGBUS_QDRANT_URL": dead,
    }
    assert list(clock(Target(variables, "a test", gateway=dead))) == []


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("You can't write against a read only replica.", "the primary"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "more memory"),
        ("Authentication required.", "the password"),
        ("CLUSTERDOWN Hash slot not served", "every hash slot"),
        ("Error 111 connecting to 127.0.0.1:9. Connection refused.", "start it"),
    ],
)
def test_a_refusal_of_redis_has_a_fix(said: str, fix: str) -> None:
    found = redis_refusal(said)
    assert found.level is Level.FAIL
    assert said in found.said
    assert fix in found.fix


def test_a_check_that_hangs_does_not_hide_the_others() -> None:
    never = threading.Event()

    def hung() -> list[Finding]:
        never.wait()
        return []

    with pytest.raises(TimeoutError):
        _in_time(hung, deadline=0.01)
    never.set()
    assert _in_time(lambda: [redis_version("7.2")]) == [redis_version("7.2")]
    with pytest.raises(ZeroDivisionError):
        _in_time(lambda: [redis_version(str(1 / 0))])


def test_a_variable_that_nothing_reads_is_named_with_the_one_it_resembles() -> None:
    given = ["RAGBUS_CONCURENCY", "RAGBUS_CONCURRENCY", "RAGBUS_MY_KEY", "RAGBUS_API_KEY", "PATH"]
    [finding] = unread_variables(given, {"RAGBUS_CONCURRENCY", "RAGBUS_MY_KEY"})
    assert (finding.level, finding.said) == (Level.WARN, "RAGBUS_CONCURENCY: unknown variable")
    assert finding.fix == "did you mean RAGBUS_CONCURRENCY?"
