"""The SQLite store by itself: every operation survives, and nothing is written for nothing."""

import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from math import inf
from pathlib import Path
from typing import Any

import pytest

from servicebus_local.amqp.types import Described, Symbol, Timestamp, Uuid, encode
from servicebus_local.bus.filters import Rule, SqlFilter
from servicebus_local.bus.message import Message, State, read
from servicebus_local.bus.sqlite_store import SqliteStore
from servicebus_local.bus.store import Entity, SessionState, StoreError
from servicebus_local.bus.topology import QueueOptions, TopicOptions

DEAD = "q/$DeadLetterQueue"
TRANSFER = "q/$Transfer/$DeadLetterQueue"


class StoreFixture:
    """A store with a queue, and the same store after a restart."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "broker.sqlite3"
        self.store = SqliteStore(self.path)
        self.store.save(Entity("q", QueueOptions(), (), 0.0, 0.0))
        self.store.commit()

    def reopened(self) -> SqliteStore:
        """Commit, close, and open again."""
        self.store.commit()
        return self.dropped()

    def dropped(self) -> SqliteStore:
        """Close without a commit, and open again."""
        self.store.close()
        self.store = SqliteStore(self.path)
        return self.store

    def look(self, statement: str) -> list[Any]:
        """Look into the file as anybody can while it is closed."""
        self.store.close()
        with closing(sqlite3.connect(self.path)) as connection:
            found = connection.execute(statement).fetchall()
        self.store = SqliteStore(self.path)
        return found

    def written(self) -> int:
        """How much has been written so far: what is committed goes to the log."""
        return self.path.with_name(self.path.name + "-wal").stat().st_size


@pytest.fixture
def fixture(tmp_path: Path) -> Iterator[StoreFixture]:
    fixture = StoreFixture(tmp_path)
    yield fixture
    fixture.store.close()


def message(sequence: int, **fields: Any) -> Message:
    made = Message(b"\x00\x53\x75\xa0\x01x")
    made.sequence = sequence
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def numbers(store: SqliteStore, path: str = "q") -> list[int]:
    return [found.message.sequence for found in store.messages(path)]


def as_fields(message: Message) -> dict[str, object]:
    return {name: getattr(message, name) for name in Message.__slots__}


# --------------------------------------------------------------------------- messages


UNUSUAL: dict[str, Any] = {
    "annotations": (encode(Symbol("x-opt-partition-key")), encode("p"), encode(Symbol("other")), encode([1, None])),
    "bare": b"\x00\x53\x75\xa0\x02xy",
    "dead_letter_source": "elsewhere",
    "deferred": True,
    "delivery_annotations": (encode(Symbol("x-mine")), encode({"a": [1]})),
    "delivery_count": 7,
    "enqueued_at": 1_700_000_000.123456,
    "enqueued_sequence": 2**39,
    "expires_at": 1_800_000_000.5,
    "first_acquirer": b"\x41",
    "hops": 3,
    "message_id": "an id",
    "persistence": b"\x41\x50\x09",
    "scheduled_for": 1_750_000_000.25,
    "sequence": 2**39 + 1,
    "session_id": "a session",
    "state": State.SCHEDULED,
    "time_to_live": 12.5,
}


def test_everything_a_message_has_is_kept(fixture: StoreFixture) -> None:
    assert set(UNUSUAL) == set(Message.__slots__)
    unusual = message(**UNUSUAL)
    fixture.store.add("q", unusual)
    [(found, locked)] = fixture.reopened().messages("q")
    assert as_fields(found) == UNUSUAL
    assert not locked


def test_a_plain_message_is_as_plain_as_it_was(fixture: StoreFixture) -> None:
    plain = message(1)
    fixture.store.add("q", plain)
    [(found, _)] = fixture.reopened().messages("q")
    assert as_fields(found) == as_fields(plain)
    assert found.expires_at == inf


@pytest.mark.parametrize(
    "value",
    ["text", "", 7, 2**64 - 1, Uuid(bytes(16)), b"bytes", Timestamp(1), Described(Symbol("a"), 2**64 - 1)],
    ids=repr,
)
@pytest.mark.parametrize("places", [(0,), (10,), (0, 10)])
def test_an_id_of_any_type_is_what_it_was(fixture: StoreFixture, value: Any, places: tuple[int, ...]) -> None:
    wide = encode(value) if not isinstance(value, int) or value < 2**63 else b"\x80" + value.to_bytes(8, "big")
    if isinstance(value, Described):
        wide = b"\x00" + encode(value.descriptor) + b"\x80" + value.value.to_bytes(8, "big")
    fields = [b"\x40"] * 11
    for place in places:
        fields[place] = wide
    body = b"".join(fields)
    sent = read(b"\x00\x53\x73\xc0" + bytes([len(body) + 1, 11]) + body)
    sent.sequence = 1
    fixture.store.add("q", sent)
    [(found, _)] = fixture.reopened().messages("q")
    expected = (value if 0 in places else None, value if 10 in places else None)
    assert (found.message_id, found.session_id) == (sent.message_id, sent.session_id) == expected
    assert found.bare == sent.bare


def test_messages_are_found_in_sequence_order_each_in_its_place(fixture: StoreFixture) -> None:
    for path, sequence in (("q", 5), (DEAD, 2), ("q", 1), (TRANSFER, 3), ("q", 2**40 - 1), (DEAD, 1)):
        fixture.store.add(path, message(sequence))
    store = fixture.reopened()
    assert [numbers(store, path) for path in ("q", DEAD, TRANSFER)] == [[1, 5, 2**40 - 1], [1, 2], [3]]


def test_people_can_look_into_the_file_while_it_is_closed(fixture: StoreFixture) -> None:
    fixture.store.add(DEAD, message(3, message_id="dead", enqueued_at=0.0))
    fixture.store.add("q", message(7, message_id="locked", session_id="s", delivery_count=2))
    fixture.store.add("q", message(8))
    fixture.store.lock("q", 7)
    fixture.store.commit()
    fixture.store.remove("q", 8)
    fixture.store.commit()
    assert set(
        fixture.look("SELECT path, part, sequence, locked, message_id, session_id, enqueued, size FROM stored")
    ) == {
        ("q", 0, 7, 1, "locked", "s", "1970-01-01 00:00:00", 6),
        ("q", 1, 3, 0, "dead", None, "1970-01-01 00:00:00", 6),
    }


def test_a_message_is_kept_as_it_is_at_the_commit(fixture: StoreFixture) -> None:
    edited = message(1)
    fixture.store.add("q", edited)
    edited.delivery_count = 2
    fixture.store.change("q", edited)
    [(found, _)] = fixture.reopened().messages("q")
    assert found.delivery_count == 2


@pytest.mark.parametrize("commits", ["at the end", "after the first", "after each"])
@pytest.mark.parametrize(
    ("happenings", "locked"),
    [
        (["lock"], True),
        (["lock", "unlock"], False),
        (["lock", "unlock", "lock"], True),
        (["lock", "change"], False),
        (["change", "lock"], True),
        (["lock", "change", "lock"], True),
        (["lock", "change", "lock", "unlock"], False),
        (["unlock"], False),
    ],
)
def test_whether_it_was_locked_is_kept(
    fixture: StoreFixture, commits: str, happenings: list[str], locked: bool
) -> None:
    kept = message(1)
    fixture.store.add("q", kept)
    for number, happening in enumerate(happenings):
        if commits == "after each" or (commits == "after the first" and number == 0):
            fixture.store.commit()
        getattr(fixture.store, happening)("q", kept if happening == "change" else 1)
    assert [found.locked for found in fixture.reopened().messages("q")] == [locked]


def test_a_lock_is_known_after_a_restart_until_it_is_taken_back(fixture: StoreFixture) -> None:
    fixture.store.add("q", message(1))
    fixture.store.lock("q", 1)
    assert [found.locked for found in fixture.reopened().messages("q")] == [True]
    fixture.store.unlock("q", 1)
    assert [found.locked for found in fixture.reopened().messages("q")] == [False]


@pytest.mark.parametrize("committed", [False, True])
def test_a_message_that_left_is_gone(fixture: StoreFixture, committed: bool) -> None:
    for sequence in (1, 2):
        fixture.store.add("q", message(sequence))
    fixture.store.lock("q", 1)
    if committed:
        fixture.store.commit()
    fixture.store.change("q", message(2))
    fixture.store.remove("q", 1)
    assert numbers(fixture.reopened()) == [2]


def test_a_message_that_left_and_came_back_is_there_once(fixture: StoreFixture) -> None:
    fixture.store.add(DEAD, message(1))
    fixture.store.commit()
    for count in (1, 2):
        fixture.store.remove(DEAD, 1)
        fixture.store.add(DEAD, message(1, delivery_count=count))
    [(found, locked)] = fixture.reopened().messages(DEAD)
    assert (found.delivery_count, locked) == (2, False)


@pytest.mark.parametrize("commits", [0, 1, 2, 3])
def test_a_message_that_left_while_it_was_locked_comes_back_without_its_lock(
    fixture: StoreFixture, commits: int
) -> None:
    fixture.store.add("q", message(1))
    for number, happening in enumerate(("lock", "remove", "add")):
        if number < commits:
            fixture.store.commit()
        getattr(fixture.store, happening)("q", message(1) if happening == "add" else 1)
    assert [found.locked for found in fixture.reopened().messages("q")] == [False]
    fixture.store.lock("q", 1)
    assert [found.locked for found in fixture.reopened().messages("q")] == [True]
    fixture.store.remove("q", 1)
    fixture.reopened().add("q", message(1))
    fixture.store.lock("q", 1)
    assert [found.locked for found in fixture.reopened().messages("q")] == [True]


def test_a_message_that_left_may_come_back_later(fixture: StoreFixture) -> None:
    fixture.store.add("q", message(1))
    for happening in ("remove", "add", "remove", "add"):
        fixture.store.commit()
        getattr(fixture.store, happening)("q", 1 if happening == "remove" else message(1, delivery_count=9))
    [(found, _)] = fixture.reopened().messages("q")
    assert found.delivery_count == 9
    fixture.store.remove("q", 1)
    fixture.store.add("q", message(1))
    fixture.store.remove("q", 1)
    assert numbers(fixture.reopened()) == []


@pytest.mark.parametrize("left", [1, 255, 256, 257, 1000])
def test_however_many_left_they_do_not_come_back_and_numbers_go_on(fixture: StoreFixture, left: int) -> None:
    for sequence in range(1, left + 3):
        fixture.store.number("q", sequence)
        fixture.store.add("q", message(sequence))
        fixture.store.commit()
    for sequence in range(1, left + 1):
        fixture.store.remove("q", sequence)
        fixture.store.commit()
    assert numbers(fixture.reopened()) == [left + 1, left + 2]
    for sequence in (left + 1, left + 2):
        fixture.store.remove("q", sequence)
    assert numbers(fixture.reopened()) == []
    assert fixture.store.last_sequence("q") == left + 2
    [[rows]] = fixture.look("SELECT count(*) FROM message")
    assert rows <= 256
    for sequence in range(left + 3, left + 300):
        fixture.store.add("q", message(sequence))
        fixture.store.commit()
        fixture.store.remove("q", sequence)
    assert fixture.reopened().last_sequence("q") == left + 299


def test_numbers_go_on_when_no_row_is_left(fixture: StoreFixture) -> None:
    for sequence in range(1, 257):
        fixture.store.number("q", sequence)
        fixture.store.add("q", message(sequence))
        fixture.store.commit()
    for sequence in range(1, 257):
        fixture.store.remove("q", sequence)
        fixture.store.commit()
    assert fixture.look("SELECT key FROM message") == []
    assert fixture.store.last_sequence("q") == 256


# --------------------------------------------------------------------------- what cancels out


def test_a_message_that_came_and_left_between_two_commits_is_never_written(fixture: StoreFixture) -> None:
    before = fixture.written()
    fixture.store.add("q", message(1))
    fixture.store.lock("q", 1)
    fixture.store.remove("q", 1)
    fixture.store.commit()
    assert fixture.written() == before


def test_a_lock_that_was_taken_and_given_back_between_two_commits_is_never_written(fixture: StoreFixture) -> None:
    fixture.store.add("q", message(1))
    fixture.store.commit()
    before = fixture.written()
    fixture.store.lock("q", 1)
    fixture.store.unlock("q", 1)
    fixture.store.commit()
    assert fixture.written() == before


def test_every_change_is_pending_until_the_commit(fixture: StoreFixture) -> None:
    store = fixture.store
    store.add("q", message(1))
    store.commit()
    changes: list[Callable[[], None]] = [
        lambda: store.add("q", message(2)),
        lambda: store.change("q", message(1)),
        lambda: store.lock("q", 1),
        lambda: store.unlock("q", 1),
        lambda: store.remove("q", 1),
        lambda: store.number("q", 9),
        lambda: store.remember("q", "id", 1, 0.0, 1.0),
        lambda: store.put_session_state("q", "s", b"", 0.0),
        lambda: store.save(Entity("r", QueueOptions(), (), 0.0, 0.0)),
        lambda: store.delete("r"),
    ]
    pending = [store.pending]
    for change in changes:
        change()
        pending.append(store.pending)
        store.commit()
        pending.append(store.pending)
    assert pending == [False] + [True, False] * len(changes)


def test_what_was_not_committed_is_not_there(fixture: StoreFixture) -> None:
    for sequence in (1, 2):
        fixture.store.number("q", sequence)
        fixture.store.add("q", message(sequence))
        if sequence == 1:
            fixture.store.commit()
    assert numbers(fixture.dropped()) == [1]
    assert fixture.store.last_sequence("q") == 1


# --------------------------------------------------------------------------- the rest


def test_the_highest_number_is_kept_when_the_message_is_gone(fixture: StoreFixture) -> None:
    fixture.store.number("q", 4)
    fixture.store.number(DEAD, 5)  # one row of numbers for a queue and its dead letters
    assert fixture.reopened().last_sequence("q") == 5
    assert fixture.store.last_sequence("another") == 0


def test_session_states_are_kept_changed_and_forgotten(fixture: StoreFixture) -> None:
    for session_id, state in (("a", b"1"), ("b", b""), ("c", b"3")):
        fixture.store.put_session_state("q", session_id, state, 10.0)
    fixture.store.commit()
    fixture.store.put_session_state("q", "a", b"new", 20.0)
    fixture.store.put_session_state("q", "c", None, 30.0)
    states = set(fixture.reopened().session_states("q"))
    assert states == {SessionState("a", b"new", 20.0), SessionState("b", b"", 10.0)}
    assert list(fixture.store.session_states(DEAD)) == []


def test_ids_of_any_type_are_remembered_oldest_first(fixture: StoreFixture) -> None:
    ids = ["text", 7, 2**64 - 1, b"bytes", Uuid(bytes(16))]
    for sequence, message_id in enumerate(ids, 1):
        fixture.store.remember("q", message_id, sequence, 10.0 * sequence, 100.0)
    remembered = list(fixture.reopened().remembered("q"))
    assert remembered == [(message_id, at, 10.0 * at) for at, message_id in enumerate(ids, 1)]


def test_expired_message_ids_are_deleted(fixture: StoreFixture) -> None:
    for sequence in range(1, 20_001):
        fixture.store.remember("q", f"id{sequence}", sequence, float(sequence), sequence + 100.0)
        if sequence % 50 == 0:
            fixture.store.commit()
    remembered = [sequence for _, sequence, _ in fixture.reopened().remembered("q")]
    assert set(range(19_901, 20_001)) <= set(remembered)
    assert len(remembered) < 1000


def test_definitions_are_kept_and_topics_come_before_their_subscriptions(fixture: StoreFixture) -> None:
    rules = (Rule("r", SqlFilter("a = 1")),)
    topic = Entity("news", TopicOptions(max_size=5.0), (), 1.0, 2.0)
    subscription = Entity("news/Subscriptions/all", QueueOptions(metadata="m"), rules, 3.0, 4.0)
    for entity in (subscription, topic):
        fixture.store.save(entity)
    queue = Entity("q", QueueOptions(max_delivery_count=3), (), 0.0, 9.0)
    fixture.store.save(queue)
    assert list(fixture.reopened().entities()) == [queue, topic, subscription]


def test_deleting_an_entity_deletes_its_messages_and_subscriptions_only(fixture: StoreFixture) -> None:
    for path in ("a", "a/b", "a/Subscriptions/s", "ab"):
        fixture.store.save(Entity(path, QueueOptions(), (), 0.0, 0.0))
        fill(fixture.store, path)
    fixture.store.commit()
    fill(fixture.store, "a", sequence=2)
    fixture.store.delete("a")
    store = fixture.reopened()
    assert [entity.path for entity in store.entities()] == ["q", "a/b", "ab"]
    for path in ("a/b", "ab"):
        assert numbers(store, path) == numbers(store, f"{path}/$DeadLetterQueue") == [1]
        assert len(list(store.session_states(path))) == len(list(store.remembered(path))) == 1


@pytest.mark.parametrize(
    "commits", [set[str](), {"filled"}, {"emptied"}, {"deleted"}, {"filled", "emptied", "deleted"}]
)
def test_an_entity_that_is_made_again_begins_anew(fixture: StoreFixture, commits: set[str]) -> None:
    """It has the number of the one before, so whatever that one left behind would be its own."""

    def after(what: str) -> None:
        if what in commits:
            fixture.store.commit()

    fill(fixture.store, "q")
    fill(fixture.store, "q", sequence=2)
    fixture.store.number("q", 50)
    after("filled")
    fixture.store.remove("q", 2)
    after("emptied")
    fixture.store.delete("q")
    after("deleted")
    fixture.store.save(Entity("q", QueueOptions(), (), 0.0, 0.0))
    assert fixture.store.last_sequence("q") == 0
    for sequence in (1, 2):
        fixture.store.add("q", message(sequence, delivery_count=5))
        fixture.store.lock("q", sequence)
    store = fixture.reopened()
    found = [(found.sequence, found.delivery_count, locked) for found, locked in store.messages("q")]
    assert found == [(1, 5, True), (2, 5, True)]
    assert [*store.messages(DEAD), *store.session_states("q"), *store.remembered("q")] == []
    assert store.last_sequence("q") == 2
    store.unlock("q", 2)
    store.add("q", message(3))
    assert [found.locked for found in fixture.reopened().messages("q")] == [True, False, False]


def fill(store: SqliteStore, path: str, sequence: int = 1) -> None:
    store.number(path, sequence)
    store.add(path, message(sequence))
    store.lock(path, sequence)
    store.add(f"{path}/$DeadLetterQueue", message(sequence))
    store.put_session_state(path, "s", b"state", 0.0)
    store.remember(path, "id", sequence, 0.0, 1.0)


def test_many_entities_may_come_and_go(fixture: StoreFixture) -> None:
    for number in range(1000):
        fill(fixture.store, "q")
        fixture.store.delete("q")
        fixture.store.save(Entity("q", TopicOptions(), (), 0.0, 0.0))
        if number % 2:
            fixture.store.commit()
    fixture.reopened()
    [[highest]] = fixture.look("SELECT max(id) FROM entity")
    assert highest < 10  # numbers are used again: there are two million of them


def test_pending_row_deletions_of_a_deleted_entity_are_dropped(fixture: StoreFixture) -> None:
    fixture.store.save(Entity("r", QueueOptions(), (), 0.0, 0.0))
    fill(fixture.store, "r")
    fixture.store.commit()
    fixture.store.delete("r")
    for sequence in range(1, 301):
        fixture.store.number("q", sequence)
        fixture.store.add("q", message(sequence))
        fixture.store.commit()
        fixture.store.remove("q", sequence)
        fixture.store.commit()
    assert numbers(fixture.reopened()) == []


# --------------------------------------------------------------------------- what cannot be written


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Let the system refuse to write beyond a size, as it does when the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_after_a_failed_commit_every_commit_fails_and_the_file_is_unchanged(fixture: StoreFixture) -> None:
    fixture.store.add("q", message(1))
    fixture.store.commit()
    for sequence in range(2, 200):  # more than the cache holds, so that some of it is written before the end
        fixture.store.add("q", message(sequence, bare=os.urandom(20_000)))
    with no_file_larger_than(3_000_000), pytest.raises(StoreError, match="cannot be"):
        fixture.store.commit()
    assert fixture.store.pending
    with pytest.raises(StoreError, match="cannot be"):
        fixture.store.commit()
    assert numbers(fixture.dropped()) == [1]
