"""Configuration files: every finding at once, each with file, line and key, in the file's words."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from shared.errors import SettingsError
from shared.settings.files import invalid, read_yaml


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=9, description="what people call it")
    weight: float = Field(gt=0)
    count: int = Field(default=1, ge=1, le=5)
    colour: Colour | None = None
    loud: bool = False
    code: str = Field(default="a", pattern="^[a-z]$")
    tags: tuple[Annotated[str, Field(min_length=1)], ...] = ()


class Machine(BaseModel):
    model_config = ConfigDict(extra="forbid")

    parts: tuple[Part, ...] = Field(min_length=1)
    by_name: dict[str, Part] = {}
    owner: str = "we"

    @field_validator("owner")
    @classmethod
    def _known(cls, owner: str, info: ValidationInfo) -> str:
        if owner == "nobody":
            raise ValueError("nobody owns nothing")
        return str((info.context or {}).get(owner, owner))

    @model_validator(mode="after")
    def _once(self) -> "Machine":
        names = [part.name for part in self.parts]
        twice = [n for n, name in enumerate(names) if name in names[:n]]
        if twice:
            raise invalid((("parts", n, "name"), "is another's") for n in twice)
        return self


def findings(tmp_path: Path, text: str, context: dict[str, Any] | None = None) -> list[str]:
    """What is said of a file with this text, without its path."""
    file = tmp_path / "machine.yaml"
    file.write_text(text)
    try:
        read_yaml(file, Machine, "machine file", context)
    except SettingsError as wrong:
        lines = str(wrong).splitlines()
        assert all(line.startswith(f"{file}:") for line in lines)
        return [line.removeprefix(f"{file}:") for line in lines]
    return []


GOOD = "parts:\n  - name: a\n    weight: 1\n"


def test_a_good_file_is_read(tmp_path: Path) -> None:
    assert findings(tmp_path, GOOD) == []
    file = tmp_path / "machine.yaml"
    file.write_text(GOOD + "owner: she\n")
    assert read_yaml(file, Machine, "machine file", {"she": "Ada"}).owner == "Ada"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD + "    wieght: 2\n", "4: parts[a].wieght: no such key; did you mean weight?"),
        (GOOD + "zzz: 2\n", "4: zzz: no such key; there is: parts, by_name, owner"),
        ("parts:\n  - name: a\n", "2: parts[a].weight: is missing"),
        ("parts:\n  - weight: 1\n", "2: parts[1].name: is missing (what people call it)"),
        ("owner: we\n", "1: parts: is missing"),
        ("", "1: parts: is missing"),
        ("parts: []\n", "1: parts: is empty"),
        ("\nparts:\n  a: 1\n", "2: parts: must be a list: lines that begin with `- `, or [a, b]"),
        (GOOD + "  - 3\n", "4: parts[2]: must be a mapping: lines of `key: value`"),
        ("- 1\n", "1: the file: must be a mapping: lines of `key: value`"),
        (GOOD + "    count: 2.5\n", "4: parts[a].count: must be a whole number, not 2.5"),
        (GOOD + "    count: two\n", "4: parts[a].count: must be a whole number, not two"),
        (GOOD + "    count: 0\n", "4: parts[a].count: must be at least 1, not 0"),
        (GOOD + "    count: 9\n", "4: parts[a].count: must be at most 5, not 9"),
        (GOOD.replace("weight: 1", "weight: -1"), "3: parts[a].weight: must be more than 0, not -1"),
        (GOOD.replace("weight: 1", "weight: 1kg"), "3: parts[a].weight: must be a number, not 1kg"),
        (GOOD + "    colour: rad\n", "4: parts[a].colour: must be red or blue, not rad"),
        (GOOD + "    loud: perhaps\n", "4: parts[a].loud: must be true or false, not perhaps"),
        (GOOD + "owner: no\n", '4: owner: must be text; in quotes: "no"'),
        (GOOD + "owner: 2024-10-21\n", '4: owner: must be text; in quotes: "2024-10-21"'),
        (GOOD + "owner: [a]\n", "4: owner: must be text"),
        (GOOD + "    code: sk-very-secret\n", "4: parts[a].code: must be of the form ^[a-z]$"),
        (GOOD + "    tags: ['']\n", "4: parts[a].tags[1]: is empty"),
        ("parts:\n  - name: abcdefghij\n    weight: 1\n", "2: parts[abcdefghij].name: has more than 9 characters"),
        (
            GOOD + "by_name:\n  x:\n    name: b\n    weihgt: 1\n    weight: 1\n",
            "7: by_name.x.weihgt: no such key; did you mean weight?",
        ),
        (GOOD + "owner: nobody\n", "4: owner: nobody owns nothing"),
        (GOOD + "    weight: 2\n", "4: parts[a].weight: is given twice"),
        (GOOD + GOOD[7:], "4: parts[a].name: is another's"),
        ("parts: [\n", "2: not readable as YAML: expected the node content, but found '<stream end>'"),
        ("a: b: c\n", "1: not readable as YAML: mapping values are not allowed here"),
        ("[" * 5000, " not readable as YAML: it is nested too deeply"),
    ],
)
def test_a_finding_names_line_and_key_in_the_words_of_the_file(tmp_path: Path, text: str, expected: str) -> None:
    assert findings(tmp_path, text) == [expected]


def test_all_findings_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "ownr: x\nparts:\n  - name: 5\n    count: 7\n    count: 8\n  - {}\nby_name: 3\n"
    assert findings(tmp_path, text) == [
        "1: ownr: no such key; did you mean owner?",
        '3: parts[5].name: must be text; in quotes: "5"',
        "3: parts[5].weight: is missing",
        "5: parts[5].count: is given twice",
        "5: parts[5].count: must be at most 5, not 8",
        "6: parts[2].name: is missing (what people call it)",
        "6: parts[2].weight: is missing",
        "7: by_name: must be a mapping: lines of `key: value`",
    ]


def test_what_an_alias_brings_in_may_be_overridden(tmp_path: Path) -> None:
    assert findings(tmp_path, "parts:\n  - &a {name: a, weight: 1}\n  - {<<: *a, name: b}\n") == []


def test_a_file_that_is_not_there_is_named_with_the_way_to_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"machine file not found: .*machine\.yaml \(RAGBUS_CONFIG leads there"):
        read_yaml(tmp_path / "machine.yaml", Machine, "machine file")


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(["", "a", "x: y", "name", "parts", "- ", "#", "'"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "weight", "parts", "owner", "by_name", "<<", "zz", "1"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(ANY, st.text(alphabet="parts:[]{}-&*!?|>'\"\n ab1", max_size=30))
def test_whatever_a_file_contains_is_read_or_said_to_be_wrong(
    tmp_path_factory: pytest.TempPathFactory, content: object, rest: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    for text in (yaml.safe_dump(content), yaml.safe_dump(content) + rest, rest):
        said = findings(folder, text)
        assert not any("pydantic" in line or "Input should" in line for line in said)
