"""The wire format is stable: newer readers read older messages, and older readers newer ones."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from ops.reference.schemas import MESSAGES, schema
from shared.contracts.base import MAX_DEPTH, Message, check_version
from shared.contracts.outcome import Code, RequestOutcome
from shared.errors import Reason, Unprocessable

GOLDEN = Path(__file__).parent / "golden"
RELEASED = sorted((GOLDEN / "released").glob("*/*.json"))
KINDS = {message.kind: message for message in MESSAGES}


def full(kind: str) -> Any:
    return json.loads((GOLDEN / f"{kind}.json").read_text("utf-8"))


def minimal(kind: str) -> Any:
    """What the first release would have sent: only what was required then."""
    return json.loads((GOLDEN / "minimal" / f"{kind}.json").read_text("utf-8"))


def read(kind: str, body: Any) -> Message:
    return KINDS[kind].decode(json.dumps(body).encode())


def test_there_is_a_golden_of_every_kind_and_of_no_other() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(KINDS)
    assert {path.stem for path in (GOLDEN / "minimal").glob("*.json")} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_golden_is_read_and_written_without_loss(kind: str) -> None:
    assert json.loads(read(kind, full(kind)).encode()) == full(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_oldest_sender_sends_is_still_read(kind: str) -> None:
    assert isinstance(read(kind, minimal(kind)), KINDS[kind])


@pytest.mark.parametrize("sent", RELEASED, ids=lambda path: f"{path.parent.name} {path.stem}")
def test_what_an_earlier_release_sent_is_read_and_passed_on_without_loss(sent: Path) -> None:
    """While a deployment rolls, messages of the release before are on the queues."""
    body = json.loads(sent.read_text("utf-8"))
    assert contains(json.loads(read(sent.stem, body).encode()), body)


def test_a_code_of_a_later_release_is_read_and_passed_on() -> None:
    body = full("answer.v1") | {"code": "ReadTheRoom"}
    outcome = read("answer.v1", body)
    assert isinstance(outcome, RequestOutcome)
    assert outcome.code == "ReadTheRoom"
    assert json.loads(outcome.encode()) == json.loads(outcome.replaced(message=outcome.message).encode()) == body
    assert "ReadTheRoom" not in Code.__members__


@pytest.mark.parametrize("code", ["", "no word", "<script>", "A" * 65, 7, None])
def test_a_code_that_is_no_word_is_refused(code: object) -> None:
    with pytest.raises(Unprocessable):
        read("answer.v1", full("answer.v1") | {"code": code})


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_was_optional_became_required(kind: str) -> None:
    for body in without_one_field(full(kind), keep=minimal(kind)):
        read(kind, body)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_ignores_fields_it_does_not_know(kind: str) -> None:
    assert read(kind, from_the_future(full(kind))) == read(kind, full(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_golden_fits_its_published_schema_also_with_new_fields(kind: str) -> None:
    published = Draft202012Validator(schema(KINDS[kind]))
    for body in (full(kind), minimal(kind), from_the_future(full(kind))):
        published.validate(body)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_without_a_required_field_is_refused_by_reader_and_schema(kind: str) -> None:
    published = Draft202012Validator(schema(KINDS[kind]))
    for name in minimal(kind):
        body = {key: value for key, value in full(kind).items() if key != name}
        with pytest.raises(Unprocessable) as refused:
            read(kind, body)
        assert refused.value.reason is Reason.SCHEMA_INVALID
        assert not published.is_valid(body)


@pytest.mark.parametrize("subject", ["ask.v2", "ask.v10", "ask", "", "ASK.V1", "generate.v1", "x" * 500])
def test_an_unknown_kind_or_version_is_unsupported(subject: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        check_version(subject, KINDS["ask.v1"])
    assert refused.value.reason is Reason.SCHEMA_UNSUPPORTED
    assert "ask.v1" in refused.value.detail


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_kind_is_supported(kind: str) -> None:
    assert check_version(kind, *MESSAGES) is KINDS[kind]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", Reason.SCHEMA_INVALID),
        (b"{", Reason.SCHEMA_INVALID),
        (b"[]", Reason.SCHEMA_INVALID),
        (b'{"question": 7}', Reason.SCHEMA_INVALID),
        (b'{"question": "  "}', Reason.SCHEMA_INVALID),
        (b'{"question": "\xff"}', Reason.POISON_CONTENT),
        (b'{"question": "\\ud800"}', Reason.POISON_CONTENT),
        (b'{"question": ' + b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2) + b"}", Reason.POISON_CONTENT),
        (b'{"question": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", Reason.POISON_CONTENT),
    ],
)
def test_an_invalid_message_is_refused_with_the_right_reason(body: bytes, reason: Reason) -> None:
    with pytest.raises(Unprocessable) as refused:
        KINDS["ask.v1"].decode(body)
    assert refused.value.reason is reason


def contains(whole: Any, part: Any) -> bool:
    """Whether `whole` says all that `part` says; objects may have more fields."""
    match whole, part:
        case dict(), dict():
            return all(key in whole and contains(whole[key], value) for key, value in part.items())
        case list(), list():
            return len(whole) == len(part) and all(map(contains, whole, part))
        case _:
            return bool(whole == part)


def from_the_future(body: Any) -> Any:
    """The same with an unknown field in every object that is the contract's; `data` is of a use case's structure."""
    match body:
        case dict():
            known = {key: value if key == "data" else from_the_future(value) for key, value in body.items()}
            return {**known, "since_v99": {"deep": [1]}}
        case list():
            return [from_the_future(value) for value in body]
        case _:
            return body


def without_one_field(body: Any, keep: Any) -> Iterator[Any]:
    """`body` without each of the fields that `keep` does not have, one at a time, inside out."""
    for path in optional(body, keep):
        smaller = copy.deepcopy(body)
        *way, last = path
        place = smaller
        for step in way:
            place = place[step]
        del place[last]
        yield smaller


def optional(body: Any, keep: Any) -> Iterator[tuple[str | int, ...]]:
    if not (isinstance(body, dict) and isinstance(keep, dict)):
        return
    for key, value in body.items():
        if key not in keep:
            yield (key,)
        else:
            yield from ((key, *rest) for rest in optional(value, keep[key]))
