from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import console
from ops.commands.dlq import groups_of
from ops.messages import Left, Place, Selection, each
from shared.bus.port import Received


class Shelf:
    """A queue to look at, that shows at most three messages at once."""

    def __init__(self, count: int) -> None:
        self._held = [
            Received("dead", b"{}", sequence_number=number, message_id=f"m{number}") for number in range(1, count + 1)
        ]

    async def peek(self, queue: str, *, dead: bool = False, after: int = 0, limit: int = 100) -> Sequence[Received]:
        return [message for message in self._held if message.sequence_number > after][: min(limit, 3)]


@pytest.mark.parametrize(
    ("limit", "expected", "left"),
    [(None, 10, None), (10, 10, None), (4, 4, Left(6, after=4)), (1, 1, Left(9, after=1))],
)
async def test_every_message_is_taken_once_and_what_a_limit_leaves_is_counted(
    limit: int | None, expected: int, left: Left | None
) -> None:
    found: list[int] = []
    part = Selection(lambda _: True, limit=limit)
    assert await each(Shelf(10), Place("dead"), part, lambda message: found.append(message.sequence_number)) == left
    assert found == list(range(1, expected + 1))


async def test_the_limit_counts_what_passes_the_filter_and_one_can_go_on_from_there() -> None:
    def even(message: Received) -> bool:
        return message.sequence_number % 2 == 0

    found: list[Received] = []
    left = await each(Shelf(10), Place("dead"), Selection(even, limit=3), found.append)
    assert left == Left(2, after=6)
    assert await each(Shelf(10), Place("dead"), Selection(even, after=left.after), found.append) is None
    assert [message.sequence_number for message in found] == [2, 4, 6, 8, 10]


async def test_what_a_limit_leaves_is_printed_with_how_to_continue() -> None:
    left = await each(Shelf(3_000), Place("dead"), Selection(lambda _: True, limit=10), lambda _: None)
    assert str(left) == "2500 or more are left: continue with --after 10, or leave out --limit"
    assert str(Left(6, after=4)) == "6 more are left: continue with --after 4, or leave out --limit"


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
    shown = console.harmless(text)
    assert not any(ord(char) < 0x20 and char not in "\n\t" for char in shown)
    assert not any(0x7F <= ord(char) <= 0x9F or char in "\u202e\u2066" for char in shown)


def test_things_are_counted_in_english() -> None:
    assert [console.count(number, "use case") for number in (0, 1, 2)] == ["0 use cases", "1 use case", "2 use cases"]


def test_what_is_harmless_is_printed_as_it_is() -> None:
    assert console.harmless("Grüße 日本\n\t🙂") == "Grüße 日本\n\t🙂"
