"""Citations are checked against what was retrieved."""

import pytest

from services.generator.citations import supports, verify
from tests.making import a_candidate

LEAVE = a_candidate(
    1, text="Annual leave is paid.\nNew employees in Portugal receive 24 days of annual leave per year."
)
TRAVEL = a_candidate(
    2,
    title="Travel policy 2026",
    section="Limits",
    text="The per diem in Denmark is EUR 62. Receipts are needed from EUR 15.",
)
PASSAGES = (LEAVE, TRAVEL)


def test_a_true_citation_is_kept_with_the_words_it_rests_on() -> None:
    found = verify("New employees in Portugal receive 24 days of annual leave [1].", PASSAGES)
    [citation] = found.citations
    assert citation.document == "leave-1.md"
    assert citation.quote == "New employees in Portugal receive 24 days of annual leave per year."
    start = LEAVE.text.index("New")
    assert (citation.start, citation.end) == (100 + start, 100 + len(LEAVE.text))


@pytest.mark.parametrize(
    "text",
    [
        "New employees in Portugal receive 25 days of annual leave [1].",  # another number
        "The canteen serves fish on Fridays [1].",  # other words
        "New employees in Portugal receive 24 days of annual leave [3].",  # no such passage
        "New employees in Portugal receive 24 days of annual leave [0].",
        "New employees in Portugal receive 24 days of annual leave.",  # no mark
        "[1]",
        "",
    ],
)
def test_a_citation_that_does_not_hold_is_taken_out(text: str) -> None:
    found = verify(text, PASSAGES)
    assert found.citations == ()
    assert "[" not in found.text


def test_marks_are_numbered_in_order_of_appearance() -> None:
    found = verify("The per diem in Denmark is EUR 62 [2]. Annual leave is paid [1].", PASSAGES)
    assert found.text == "The per diem in Denmark is EUR 62. [1] Annual leave is paid. [2]"
    assert [(c.marker, c.document) for c in found.citations] == [(1, "leave-2.md"), (2, "leave-1.md")]


def test_each_sentence_is_checked_by_itself() -> None:
    found = verify("Annual leave is paid [1][2]. The per diem in Denmark is EUR 62 [1, 2].", PASSAGES)
    assert found.text == "Annual leave is paid. [1] The per diem in Denmark is EUR 62. [2]"
    assert [citation.marker for citation in found.citations] == [1, 2]


@pytest.mark.parametrize(
    "text",
    [
        "Annual leave is paid. [1] The per diem in Denmark is EUR 62. [2]",
        "Annual leave: paid [1] Per diem in Denmark: EUR 62 [2]",
        "Annual leave is paid [1].\nThe per diem in Denmark is EUR 62 [2].",
    ],
)
def test_wherever_the_marks_stand_each_statement_has_its_own(text: str) -> None:
    assert [citation.document for citation in verify(text, PASSAGES).citations] == ["leave-1.md", "leave-2.md"]


def test_the_label_of_a_passage_belongs_to_it() -> None:
    assert verify("Limits of 2026: the per diem in Denmark is EUR 62 [2].", PASSAGES).citations
    assert not verify("Limits of 2025: the per diem in Denmark is EUR 62 [2].", PASSAGES).citations


def test_numbers_count_as_they_are_written() -> None:
    assert not supports("The limit is EUR 1,500.", "The limit is EUR 1,50")
    assert supports("Core hours are 10:00 to 15:30.", "Core hours are 10:00 to 15:30.")
