from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import say
from ops.browse import Place, groups_of, messages
from shared.bus.port import Received


class Shelf:
    """A queue to look at, that shows at most three messages at once."""

    def __init__(self, count: int) -> None:
        self._held = [
            Received("dead", b"{}", sequence_number=number, message_id=f"m{number}") for number in range(1, count + 1)
        ]

    async def peek(self, queue: str, *, dead: bool = False, after: int = 0, limit: int = 100) -> Sequence[Received]:
        return [message for message in self._held if message.sequence_number > after][: min(limit, 3)]


@pytest.mark.parametrize(("limit", "expected"), [(100, 10), (10, 10), (4, 4), (1, 1)])
async def test_every_message_is_looked_at_once_however_few_are_shown_at_a_time(limit: int, expected: int) -> None:
    found = [each async for each in messages(Shelf(10), Place("dead"), keep=lambda _: True, limit=limit)]
    assert [each.sequence_number for each in found] == list(range(1, expected + 1))


async def test_the_limit_counts_what_passes_the_filter() -> None:
    def even(message: Received) -> bool:
        return message.sequence_number % 2 == 0

    found = [each async for each in messages(Shelf(10), Place("dead"), keep=even, limit=3)]
    assert [each.sequence_number for each in found] == [2, 4, 6]


def test_dead_letters_are_grouped_by_reason_and_place_the_largest_group_first() -> None:
    died = [
        ("Crashed", "generate"),
        ("Crashed", "retrieve"),
        ("SchemaInvalid", "ask"),
        ("Crashed", "retrieve"),
        (None, None),
    ]
    found = [Received("dead", b"", dead_letter_reason=reason, dead_letter_source=place) for reason, place in died]
    groups = [(group.reason, group.source, group.count) for group in groups_of(found)]
    assert groups[0] == ("Crashed", "retrieve", 2)
    assert set(groups[1:]) == {("Crashed", "generate", 1), ("SchemaInvalid", "ask", 1), ("Unknown", "dead", 1)}


def test_different_descriptions_are_different_groups_and_long_ones_are_shortened() -> None:
    said = ["a.pdf cannot be indexed", "b.pdf cannot\n be indexed", "b.pdf cannot be indexed", "x" * 500]
    groups = groups_of([Received("dead", b"", dead_letter_description=text) for text in said])
    assert [(group.description, group.count) for group in groups] == [
        ("b.pdf cannot be indexed", 2),
        ("a.pdf cannot be indexed", 1),
        ("x" * 119 + "…", 1),
    ]


@given(st.text())
def test_what_is_printed_cannot_move_the_cursor(text: str) -> None:
    shown = say.harmless(text)
    assert not any(ord(char) < 0x20 and char not in "\n\t" for char in shown)
    assert not any(0x7F <= ord(char) <= 0x9F or char in "\u202e\u2066" for char in shown)


def test_things_are_counted_in_english() -> None:
    assert [say.count(number, "use case") for number in (0, 1, 2)] == ["0 use cases", "1 use case", "2 use cases"]


def test_what_is_harmless_is_printed_as_it_is() -> None:
    assert say.harmless("Grüße 日本\n\t🙂") == "Grüße 日本\n\t🙂"
