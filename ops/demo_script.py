"""What the demonstration asks and what a right answer looks like, read from `questions.yaml`. Pure but for the file."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Edit:
    """A change to a document, and what the answer must then hold."""

    document: str
    replace: str
    by: str
    expect_after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One question; without `expect` it has no answer in the documents."""

    id: str
    text: str
    expect: tuple[str, ...]
    documents: frozenset[str]
    edit: Edit | None = None

    @property
    def answerable(self) -> bool:
        """Whether the documents say."""
        return bool(self.expect)


def read(file: Path) -> list[Question]:
    """The questions that are marked for the demonstration."""
    import yaml

    listed = yaml.safe_load(file.read_text("utf-8"))["questions"]
    return [_question(each) for each in listed if each.get("demo")]


def faults(
    question: Question, answer: Answer, *, cache: str | None = None, expect: Iterable[str] | None = None
) -> list[str]:
    """What is wrong with `answer`, in words; `cache`: the state it must have (`!hit`: any but that)."""
    wanted = question.expect if expect is None else tuple(expect)
    wrong = _wrong_answer(question, answer, wanted) if wanted else _wrong_silence(answer)
    return [f"{question.id}: {fault}" for fault in (*wrong, *_wrong_cache(answer, cache))]


def edited(text: str, edit: Edit) -> str:
    """The document after the edit; raises `ValueError` when what is to be replaced is not there."""
    if edit.replace not in text:
        raise ValueError(f"{edit.document} does not hold “{edit.replace}”")
    return text.replace(edit.replace, edit.by)


def _question(each: Mapping[str, Any]) -> Question:
    documents = frozenset(filter(None, [each.get("document"), *each.get("also", ())]))
    edit = each.get("edit")
    return Question(
        id=each["id"],
        text=each["question"],
        expect=tuple(each["expect"]),
        documents=documents,
        edit=Edit(edit["document"], edit["replace"], edit["with"], tuple(edit["expect_after"])) if edit else None,
    )


def _wrong_answer(question: Question, answer: Answer, wanted: Iterable[str]) -> list[str]:
    if answer.get("outcome") != "answered":
        return [f"the outcome is {answer.get('outcome')} ({answer.get('code')}: {answer.get('message')})"]
    said = str(answer.get("text", "")).casefold()
    wrong = [f"the answer does not say “{word}”" for word in wanted if word.casefold() not in said]
    cited = {citation.get("path") for citation in answer.get("citations", ())}
    if not cited & question.documents:
        wrong.append(f"it cites {sorted(map(str, cited)) or 'nothing'}, not {sorted(question.documents)}")
    return wrong


def _wrong_silence(answer: Answer) -> list[str]:
    if answer.get("outcome") != "no_answer":
        return [f"the handbook does not say, but the outcome is {answer.get('outcome')}: {answer.get('text')}"]
    return ["no answer, but citations"] if answer.get("citations") else []


def _wrong_cache(answer: Answer, wanted: str | None) -> list[str]:
    state = answer.get("cache")
    if wanted is None or (state != wanted[1:] if wanted.startswith("!") else state == wanted):
        return []
    return [
        f"the cache state is {state}, not {wanted.removeprefix('!')}" if wanted[0] != "!" else f"the cache said {state}"
    ]
