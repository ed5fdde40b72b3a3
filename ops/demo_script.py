"""The demonstration's questions and the checks of their answers, from `questions.yaml`. Pure except for reading it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Edit:
    """A change to the document at `path`, and the words that the answer must then have."""

    path: str
    replace: str
    by: str
    expect_after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One question; without `expect` it has no answer in the documents."""

    id: str
    text: str
    expect: tuple[str, ...]
    paths: frozenset[str]
    """The documents that an answer may cite."""
    edit: Edit | None = None

    @property
    def answerable(self) -> bool:
        """Whether the documents answer it."""
        return bool(self.expect)


def read(file: Path) -> list[Question]:
    """The questions that are marked for the demonstration."""
    import yaml

    questions = []
    for each in yaml.safe_load(file.read_text("utf-8"))["questions"]:
        if not each.get("demo"):
            continue
        edit = each.get("edit")
        questions.append(
            Question(
                id=each["id"],
                text=each["question"],
                expect=tuple(each["expect"]),
                paths=frozenset(filter(None, [each.get("document"), *each.get("also", ())])),
                edit=Edit(edit["document"], edit["replace"], edit["with"], tuple(edit["expect_after"]))
                if edit
                else None,
            )
        )
    return questions


def faults(
    question: Question, answer: Answer, *, cache: str | None = None, expect: Iterable[str] | None = None
) -> list[str]:
    """What is wrong with `answer`, one sentence each.

    `cache`: the required cache state (`!hit`: any other than hit). `expect`: the words that it must have, if not the
    question's.
    """
    wrong: list[str] = []
    outcome, state = answer.get("outcome"), answer.get("cache")
    words = question.expect if expect is None else tuple(expect)
    cited = {citation.get("path") for citation in answer.get("citations", ())}
    if words and outcome != "answered":
        wrong.append(f"the outcome is {outcome} ({answer.get('code')}: {answer.get('message')})")
    elif words:
        said = str(answer.get("text", "")).casefold()
        wrong += (f"the answer does not say “{word}”" for word in words if word.casefold() not in said)
        if not cited & question.paths:
            wrong.append(f"it cites {sorted(map(str, cited)) or 'nothing'}, not {sorted(question.paths)}")
    elif outcome != "no_answer":
        wrong.append(f"the handbook does not answer this, but the outcome is {outcome}: {answer.get('text')}")
    elif cited:
        wrong.append("no answer, but citations")
    if cache is not None and (state == cache[1:] if cache.startswith("!") else state != cache):
        wrong.append(f"the cache state is {state}, expected {cache.replace('!', 'anything but ')}")
    return [f"{question.id}: {fault}" for fault in wrong]


def edited(text: str, edit: Edit) -> str:
    """The document after the edit; raises `ValueError` when it does not have the text to replace."""
    if edit.replace not in text:
        raise ValueError(f"{edit.path} does not contain “{edit.replace}”")
    return text.replace(edit.replace, edit.by)
