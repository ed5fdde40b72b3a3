"""Citations are checked against what was retrieved."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.citations import rewritten, supports, unverified, verify, without_unverified
from services.generator.markup import inert
from tests.support.builders import a_candidate

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


def test_a_true_citation_is_kept_with_its_quote() -> None:
    found = verify("New employees in Portugal receive 24 days of annual leave [1].", PASSAGES)
    [citation] = found.citations
    assert citation.path == "leave-1.md"
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
def test_a_citation_that_does_not_hold_is_removed(text: str) -> None:
    found = verify(text, PASSAGES)
    assert found.citations == ()
    assert "[" not in found.text


@pytest.mark.parametrize(
    ("statement", "quote"),
    [
        ("The notice period is two weeks [1].", "The notice period is 14 days."),
        ("The notice period is three weeks [1].", None),
        ("Staff of five years get twenty-six days [1].", "After 5 years of service:\nfull-time staff get 26 days."),
        (
            "A deposit of EUR 200 is paid back after 14 days [1].",
            "The notice period is 14 days. A deposit of EUR 200 is paid back.",
        ),
    ],
)  # fmt: skip
def test_a_quote_carries_its_statement_by_itself(statement: str, quote: str | None) -> None:
    text = (
        "The notice period is 14 days. A deposit of EUR 200 is paid back.\n\n"
        "After 5 years of service:\nfull-time staff get 26 days.\nSee page 9."
    )
    found = verify(statement, [a_candidate(1, text=text)]).citations
    assert [citation.quote for citation in found] == ([quote] if quote else [])
    for citation in found:
        assert text[citation.start - 100 : citation.end - 100] == citation.quote


def test_a_part_of_a_split_table_is_cited_by_its_place_in_the_document() -> None:
    header = "| Country | Days |\n| --- | --- |\n"
    document = f"{header}| Spain | 23 |\n| Portugal | 24 |\n"
    start = document.index("| Portugal")
    part = a_candidate(1, text=f"{header}{document[start:].rstrip()}", start=start, end=len(document))
    [citation] = verify("Portugal: 24 days [1]", [part]).citations
    assert document[citation.start : citation.end] == citation.quote == "| Portugal | 24 |"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["Leave", "paid", "24", "days", "two", "weeks", ".", "\n", "EUR 5", "|"]), max_size=30),
    st.lists(st.sampled_from(["leave", "paid", "24", "days", "14 days", "EUR 5", "2 weeks"]), min_size=1, max_size=5),
)  # fmt: skip
def test_every_quote_is_in_its_passage_and_carries_its_statement(there: list[str], said: list[str]) -> None:
    passage, statement = a_candidate(1, title="T", section="", text=" ".join(there)), " ".join(said)
    for citation in verify(f"{statement} [1]", [passage]).citations:
        assert passage.text[citation.start - 100 : citation.end - 100] == citation.quote
        assert supports(f"T\n\n{citation.quote}", statement)


def test_marks_are_numbered_in_order_of_appearance() -> None:
    found = verify("The per diem in Denmark is EUR 62 [2]. Annual leave is paid [1].", PASSAGES)
    assert found.text == "The per diem in Denmark is EUR 62. [1] Annual leave is paid. [2]"
    assert [(c.marker, c.path) for c in found.citations] == [(1, "leave-2.md"), (2, "leave-1.md")]


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
def test_each_statement_has_its_own_marks_wherever_they_stand(text: str) -> None:
    assert [citation.path for citation in verify(text, PASSAGES).citations] == ["leave-1.md", "leave-2.md"]


def test_the_label_of_a_passage_belongs_to_it() -> None:
    assert verify("Limits of 2026: the per diem in Denmark is EUR 62 [2].", PASSAGES).citations
    assert not verify("Limits of 2025: the per diem in Denmark is EUR 62 [2].", PASSAGES).citations


def test_numbers_count_as_they_are_written() -> None:
    assert not supports("The limit is EUR 1,500.", "The limit is EUR 1,50")
    assert supports("The limit is EUR 1,500.", "The limit is EUR 1.500")
    assert supports("Core hours are 10:00 to 15:30.", "Core hours are 10:00 to 15:30.")


def test_sentences_without_a_citation_are_known() -> None:
    text = (
        "Hello. You are welcome!\n\nAnnual leave is paid. [1] Salaries double (2).\n- The per diem is EUR 62 [2]\n---"
    )
    assert [text[start:end] for start, end in unverified(text)] == ["Hello. You are welcome!", "Salaries double (2)."]
    assert without_unverified(text) == "Annual leave is paid. [1] \n- The per diem is EUR 62 [2]\n---"


@pytest.mark.parametrize(
    "text",
    [
        "The office opens at 9 a.m. and closes at 5 p.m. daily. [1]",
        "You get benefits, e.g. a car. [1]",
        "Please ask Dr. Smith for them. [1]",
        "Der Urlaub beginnt am 1. Januar. [1]",
        "It takes approx. 5 days, max. 10. [1]",
    ],
)
def test_a_full_stop_of_an_abbreviation_ends_no_sentence(text: str) -> None:
    assert unverified(text) == []


@pytest.mark.parametrize("first", ["It opens at 9 a.m.", "You get a car, a phone etc.", "It is 30.", "Ask sales."])
def test_a_sentence_may_end_in_an_abbreviation(first: str) -> None:
    text = f"{first} Annual leave is paid. [1]"
    assert [text[start:end] for start, end in unverified(text)] == [first]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("1. Salaries double.\n2. Annual leave is paid. [1]\n3. Bye.", "2. Annual leave is paid. [1]"),
        ("| What | Paid |\n|---|:--|\n| Annual leave | yes [1] |", "| Annual leave | yes [1] |"),
        ("```sh\nrm -rf x\n```\nAnnual leave is paid. [1]", "Annual leave is paid. [1]"),
        ("# Leave\n\n- Annual leave is paid. [1]\n- Salaries double.", "- Annual leave is paid. [1]"),
        ("```Annual leave is paid [1]\nBye", "```Annual leave is paid [1]"),
        ("```\nannual leave is paid [1]\n```\n2026", "```\nannual leave is paid [1]\n```\n2026"),
    ],
)
def test_nothing_is_left_of_what_is_unverified(text: str, left: str) -> None:
    assert without_unverified(text) == left


@pytest.mark.parametrize("piece", ["|", "| ", "|" + " " * 100_000, "```", "```\n", "\n", " ", "1. ", "- ", "a. "])
def test_taking_out_what_is_unverified_takes_linear_time(piece: str) -> None:
    text = piece * (100_000 // len(piece)) + "x"
    assert "x" not in without_unverified(text)


MARKUP = st.sampled_from(
    [
        "[",
        "]",
        "<",
        ">",
        "b",
        "1",
        "7",
        " ",
        "[9]",
        "<b>",
        "(",
        ")",
        ":",
        "=",
        "//",
        "x",
        "【",
        "！",
        "!",
        "\n",
        "Annual leave is paid [1]. ",
    ]
)


@given(st.lists(MARKUP, max_size=24).map("".join))
@settings(max_examples=300)
def test_taking_out_markup_leaves_no_other_mark(text: str) -> None:
    found = verify(inert(text, ()), PASSAGES)
    shown = rewritten(found.text, lambda said: inert(said, ()))
    assert set(re.findall(r"\[(\d+)\]", shown)) <= {str(citation.marker) for citation in found.citations}
    assert len(re.findall(r"\[\d+\]", shown)) <= len(re.findall(r"\[\d+\]", found.text))
    assert not re.search(r"<[a-z/!]|\]\(|\]:", shown)


@pytest.mark.parametrize(
    "text", ["A car is free [<[9]b>1]. Annual leave is paid [1].", "[<[9]b>7] Annual leave is paid [1]."]
)
def test_a_tag_inside_of_a_mark_makes_no_mark(text: str) -> None:
    shown = rewritten(verify(inert(text, ()), PASSAGES).text, lambda said: inert(said, ()))
    assert shown.count("[") == shown.count("[1]") == 1
    assert shown.endswith("Annual leave is paid. [1]")


@given(st.text(alphabet="ab. [1]\n?!", max_size=40))
def test_what_is_unverified_can_be_left_out(text: str) -> None:
    spans = unverified(text)
    assert all(first[1] <= second[0] for first, second in pairwise(spans))
    assert all("[1]" not in text[start:end] for start, end in spans)


def test_empty_words_carry_no_statement() -> None:
    assert not supports("The salary of all is paid in the last week of each month.", "The CEO of all is in the moon")
    assert supports("This is it.", "This is it")


PAID = "Annual leave is paid"


@pytest.mark.parametrize(
    "mark",
    ["[ 1 ]", "【1】", "［1］", "[１]", "[^1]", "[1†source]", "【1†leave-policy.pdf】", "[[1]]", "[passage 1]",
     "[1](https://evil.example/?q=1)", "[1][2]", "[1-1]", "[#1]", "[source 1]", "[1][evil]", "\\[1\\]", "[1;9]",
     "[1 9]", "[1: Leave]", "[1 and 9]", "[1, 1]", "[1, p. 3]", "![1](https://evil.example/x.png)"],
)  # fmt: skip
def test_other_notations_of_a_mark_are_read_as_marks(mark: str) -> None:
    found = verify(f"{PAID} {mark}.", PASSAGES)
    assert [citation.marker for citation in found.citations] == [1]
    assert found.text.endswith(" [1]")
    assert "evil.example" not in found.text
    assert found.text.count("[1]") == 1


@pytest.mark.parametrize(
    "mark",
    ["[1234]", "[-1]", "[0]", "[7-9]", "[3;4]", "【7】", "［8］", "[^9]", "[9†source]", "[source: leave.pdf, p. 3]",
     "[Sources: the handbook]", "[9](https://evil.example)", "[999999999999]", "[7][8]", "[ 9 ]", "[٣]"],
)  # fmt: skip
def test_text_that_only_looks_like_a_mark_is_removed(mark: str) -> None:
    found = verify(f"{PAID} [1]. The canteen is closed {mark} today.", PASSAGES)
    assert found.text == f"{PAID}. [1] The canteen is closed today."


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"{PAID} [1].\n[1]: https://evil.example\n> [^1]: evil", f"{PAID}. [1]"),
        (f"{PAID} [1].\n[1]:\nhttps://evil.example", f"{PAID}. [1]\n\nhttps://evil.example"),
        (f"[{PAID} [1]](https://evil.example)", f"{PAID} [1]"),
        (f"[See here. {PAID} [1]. More](https://evil.example)", f"See here. {PAID}. [1] More"),
        (f"[See [the. {PAID} [1]. And]](https://evil.example) more", f"See [the. {PAID}. [1] And] more"),
        (f"[See here. {PAID} [1]. More][evil]", f"See here. {PAID}. [1] More[evil]"),
    ],
)
def test_a_mark_is_never_a_link(text: str, left: str) -> None:
    assert verify(text, PASSAGES).text == left


@pytest.mark.parametrize(
    "text",
    [
        "See [the portal](https://intra.example/leave), [24 days], [10:00], [2024-05-01], [x], [ ], 10⁵, (1), ¹.",
        "Write [document number] on the form: [Section 3 of it], {1}, <1>.",
        "First\n\n- one\n- two",
    ],
)  # fmt: skip
def test_other_brackets_are_unchanged(text: str) -> None:
    assert verify(text, PASSAGES).text == text


@pytest.mark.parametrize("text", ["[\n[1]1]", "[ [1]1]", "[[[1]9]1]", "[1, [9]2]", "[ [ [1]1]1]"])
def test_removing_marks_leaves_no_new_mark(text: str) -> None:
    assert LOOKS_LIKE_A_MARK.search(verify(text, PASSAGES).text) is None


SOUP = st.lists(
    st.sampled_from(
        [*"[]()［］【】^-,;:.1239 \n\\", "†", "](", "[1]", "[2]", " [1]", ". ", PAID, "Annual leave ", "source: x"]
    ),
    max_size=30,
).map("".join)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(SOUP)
def test_a_number_in_brackets_is_always_a_checked_citation(text: str) -> None:
    found = verify(text, PASSAGES)
    marks = list(LOOKS_LIKE_A_MARK.finditer(found.text))
    assert {mark[0] for mark in marks} == {f"[{citation.marker}]" for citation in found.citations}
    for mark in marks:
        assert found.text[mark.start() - 1] == " "
        assert found.text[mark.end() :][:1].strip() == ""


LOOKS_LIKE_A_MARK = re.compile(
    r"[\[［【]\s{0,3}[\^#-]?\s?\d+(?:\s?[,;-]\s?\d+)*(?:\s?†[^\[\]［］【】\n]{0,80})?\s{0,3}[\]］】]"
)


# Against what takes quadratic time: it takes minutes on any machine, and linear time a second or two.
WITHOUT_END = pytest.mark.timeout(120)


@WITHOUT_END
@pytest.mark.parametrize(
    "piece",
    [
        "[",
        "]",
        "[1",
        "1]",
        "[1, ",
        "[ ",
        "[[9] 1",
        "[x](",
        "[9]",
        "\\[",
        "[1-",
        "[a ",
        "[source: ",
        "](",
        "[1 ",
        "Annual leave is paid [1]. ",
    ],
)
def test_a_hostile_text_takes_linear_time(piece: str) -> None:
    """What takes quadratic time takes minutes here."""
    verify(piece * (130_000 // len(piece)), [LEAVE, TRAVEL] * 8)


@WITHOUT_END
@pytest.mark.parametrize("size", [25_000, 128_000])
@pytest.mark.parametrize(
    ("before", "core", "after"),
    [
        ("[", "1", "]"),
        ("\\[", "1", "\\]"),
        ("[1", "[1]", "1]"),
        ("[9, ", "[9]", "2]"),
        ("[source: ", "1", "]"),
        ("[x ", "[1]", "](a)"),
        ("[x ", "[1]", "][a]"),
        ("", "[1]", "(a)"),
    ],
)
def test_deeply_nested_text_takes_no_longer_than_flat_text(before: str, core: str, after: str, size: int) -> None:
    """What takes quadratic time takes minutes here, and what ends early leaves something like a mark."""
    depth = size // len(before + after)
    found = verify(f"{PAID} [1].\n{before * depth}{core}{after * depth}\n{PAID} [1].", PASSAGES)
    assert [citation.marker for citation in found.citations] == [1]
    assert {mark[0] for mark in LOOKS_LIKE_A_MARK.finditer(found.text)} == {"[1]"}
    assert found.text.startswith(f"{PAID}. [1]")
    assert found.text.endswith(f"{PAID}. [1]")
