"""What can be quoted from a passage."""

import pytest

from local.llm.passages import Passage
from local.llm.units import Kind, sentences, units

TEXT = """# Leave

Staff in Spain have 23 days, e.g. in summer. Others
have 20.

## First day

Bring the following:

- a passport;
- your contract,
  signed by both.

| Country | Days |
|---|---|
| Spain | 23 |
| Italy | 26 |

### May I work from home?

Yes. Up to 3 days a week.
"""


def test_sentences_items_lists_and_rows_are_units() -> None:
    found = [(unit.kind, unit.text) for unit in units(Passage(1, "", TEXT))]
    assert found == [
        (Kind.SENTENCE, "Staff in Spain have 23 days, e.g. in summer."),
        (Kind.SENTENCE, "Others have 20."),
        (Kind.ITEM, "a passport;"),
        (Kind.ITEM, "your contract, signed by both."),
        (Kind.LIST, "Bring the following: a passport; your contract, signed by both"),
        (Kind.ROW, "Country: Spain; Days: 23"),
        (Kind.ROW, "Country: Italy; Days: 26"),
        (Kind.SENTENCE, "Yes. Up to 3 days a week."),
    ]


def test_a_unit_knows_what_stands_above_it() -> None:
    found = units(Passage(4, "Handbook", TEXT))
    item, answer = found[2], found[-1]
    assert (item.passage, item.label, item.above) == (4, "Handbook", "Leave First day Bring the following:")
    assert answer.heading == "May I work from home?"


def test_without_headings_the_label_says_where_we_are() -> None:
    (unit,) = units(Passage(1, "Leave policy › Sick leave", "Tell your manager."))
    assert unit.heading == "Sick leave"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("It costs EUR 9.60 per day. Pay by Dr. Smith.", ["It costs EUR 9.60 per day.", "Pay by Dr. Smith."]),
        ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
        ("see no. 7 and so on", ["see no. 7 and so on"]),
        ("", []),
    ],
)
def test_sentences_end_where_they_end(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


def test_an_underlined_line_is_a_heading() -> None:
    (unit,) = units(Passage(1, "", "GLOSSARY\n========\n\nKeel: The system for orders."))
    assert (unit.heading, unit.text) == ("GLOSSARY", "Keel: The system for orders.")
