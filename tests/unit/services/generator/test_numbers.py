"""Numbers in digits and in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.citations import supports
from services.generator.numbers import read


@pytest.mark.parametrize(
    ("statement", "passage"),
    [
        ("within two weeks", "within 14 days"),
        ("within 14 days", "within two weeks"),
        ("two weeks", "a fortnight"),
        ("14-day notice", "notice of two weeks"),
        ("half a day", "12 hours"),
        ("half an hour", "30 minutes"),
        ("half-day leave", "0.5 days"),
        ("a quarter of an hour", "15 minutes"),
        ("two and a half hours", "150 minutes"),
        ("1½ hours", "90 min"),
        ("twelve months", "one year"),
        ("one day", "24 hours"),
        ("one day", "once a day"),
        ("60 minutes", "an hour"),
        ("a dozen eggs", "12 eggs"),
        ("two dozen", "24"),
        ("twenty-five days", "25 days"),
        ("25 days", "twenty five days"),
        ("the tenth day", "day 10"),
        ("the 10th day", "the tenth day"),
        ("twenty-first", "21st"),
        ("1,000 euros", "EUR 1.000"),
        ("1 000 euros", "€1000"),
        ("1'000.50", "1000.50"),
        ("1.234,50", "1,234.50"),
        ("1,5", "1.50"),
        ("one hundred and five", "105"),
        ("nineteen hundred", "1,900"),
        ("two thousand and twenty-six", "2026"),
        ("nine million euros", "EUR 9,000,000"),
        ("EUR 1.5 million", "1,500,000 euros"),
        ("$1.2M", "1.2 million dollars"),
        ("1.2M USD", "$1,200,000"),
        ("€1.5k", "EUR 1,500"),
        ("$3B", "three billion dollars"),
        ("7.5h", "7.5 hours"),
        ("5:30pm", "until 17:30"),
        ("5:30", "until 17:30"),
        ("5:30", "until 5:30 pm"),
        ("5:30 pm", "until 17:30 h"),
        ("9:30 thousand", "9:30 thousand"),
        ("from 9 to 5 pm", "9:00 to 17:00"),
        ("17:30", "until 5:30 p.m."),
        ("10k", "10,000"),
        ("15 percent", "15%"),
        ("15 per cent", "15 %"),
        ("fifteen percent", "15 %"),
        ("50 percent", "half"),
        ("10 am", "10:00"),
        ("3:30 p.m.", "15:30"),
        ("9:00", "09:00"),
        ("10 o'clock", "10:00 to 15:30"),
        ("2 to 4 weeks", "14 to 28 days"),
        ("10 days", "10 working days"),
        ("24 days", "| Portugal | 24 | 26 |"),
        ("24", "24 days"),
        ("two", "both"),
        ("1 March 2026", "2026-03-01"),
        ("٢٤ days", "24 days"),
        ("room A4, 10.0.0.1", "10.0.0.1 and room A4"),
        ("one must ask first", "must ask"),
        ("24 days a year", "24 days"),
        ("5 km", "5,000 metres"),
    ],
)
def test_a_number_may_be_written_in_another_way(statement: str, passage: str) -> None:
    there = read(passage)
    assert [number for number in read(statement).stated if not there.bears(number)] == []


@pytest.mark.parametrize(
    ("statement", "passage"),
    [
        ("three weeks", "14 days"),
        ("two weeks", "15 days"),
        ("two weeks", "14 working days"),
        ("one week", "5 working days"),
        ("half a day", "11 hours"),
        ("half a day", "half the staff"),
        ("twenty-four days", "25 days"),
        ("a dozen eggs", "13 eggs"),
        ("nine million euros", "EUR 9"),
        ("nine million euros", "EUR 900,000"),
        ("the eleventh day", "the tenth day"),
        ("1,500", "1,50"),
        ("$1.2M", "1.2 billion dollars"),
        ("$1.2", "$1.2M"),
        ("5:30am", "until 17:30"),
        ("5:30 am", "until 5:30 pm"),
        ("1.5", "1,500"),
        ("2 weeks", "2 days"),
        ("24 hours", "24 days"),
        ("62 dollars", "EUR 62"),
        ("15 percent", "15 days"),
        ("10 pm", "10:00"),
        ("12 days", "12:00"),
        ("44", "0044"),
        ("A5", "A4"),
        ("105", "10⁵"),
        ("one day", "first"),
    ],
)
def test_another_number_is_another_number_however_it_is_written(statement: str, passage: str) -> None:
    there = read(passage)
    assert not all(there.bears(number) for number in read(statement).stated)


def test_words_of_a_number_count_as_shared() -> None:
    assert supports("Notice: 14 days", "two weeks notice")
    assert not supports("Notice: 15 days", "two weeks notice")


@given(st.integers(2, 999_999_999))
def test_every_number_in_words_is_the_number(number: int) -> None:
    assert [found.value for found in read(in_words(number)).stated] == [number]
    assert [found.value for found in read(f"{number:,}").stated] == [number]


@given(st.text(alphabet="0123456789.,: ½ahkpm-€%one twhudrf", max_size=60))
def test_any_text_bears_itself_out(text: str) -> None:
    there = read(text)
    assert all(there.bears(number) for number in read(text).stated)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("piece", ["hundred ", "million ", "9 million ", "1 000 ", "one and ", "9", "1,000", "half a "])
def test_a_hostile_text_takes_linear_time(piece: str) -> None:
    read(piece * (130_000 // len(piece)))


ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
ONES = f"{ONES} eighteen nineteen"
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"


def in_words(number: int) -> str:
    for name, size in (("million", 1_000_000), ("thousand", 1_000), ("hundred", 100)):
        if number >= size:
            rest = number % size
            joined = f" and {in_words(rest)}" if rest and rest < 100 else f" {in_words(rest)}" if rest else ""
            return f"{in_words(number // size)} {name}{joined}"
    if number < 20:
        return ONES.split()[number]
    ten = TENS.split()[number // 10 - 2]
    return f"{ten}-{ONES.split()[number % 10]}" if number % 10 else ten
