"""Questions with their answers, and the documents that hold them: a folder.

FOLDER/
    questions.yaml
    documents/            the files to be indexed; `documents:` in questions.yaml names another folder

questions:
  - id: core-hours                       optional; the position otherwise
    question: What are the core hours?
    expect: ["10:00", ["15:30", "3.30 pm"]]   each of them, in one of its forms; none: there is no answer
    document: remote-work.md             where the answer stands
    also: [faq.md]                       where else it may be cited from
    kind: fact                           optional; the figures are printed by kind
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Forms = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One question; without `expect`, refusing is right."""

    id: str
    text: str
    expect: tuple[Forms, ...]
    documents: frozenset[str]
    kind: str = ""

    @property
    def answerable(self) -> bool:
        """Whether the documents answer it."""
        return bool(self.expect)

    def holds(self, text: str) -> bool:
        """Whether `text` has each expected string in one of its forms, whatever their case and white space."""
        said = _plain(text)
        return all(any(_plain(form) in said for form in forms) for forms in self.expect)


@dataclass(frozen=True, slots=True)
class Folder:
    """What is asked, and the folder of the documents."""

    questions: tuple[Question, ...]
    documents: Path


def read(folder: Path, *, unreadable: frozenset[str] = frozenset()) -> Folder:
    """The questions and documents of `folder`; raises `OSError`, or `ValueError` that names the question.

    `unreadable`: kinds of questions whose documents the caller may not read, so that refusing them is right.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = yaml.load((folder / "questions.yaml").read_text("utf-8"), loader)  # noqa: S506 - both are safe
    entries = content.get("questions") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{folder / 'questions.yaml'} needs a list called 'questions'")
    documents = folder / str(content.get("documents", "documents"))
    if not documents.is_dir():
        raise ValueError(f"there is no folder {documents}; 'documents:' in questions.yaml names it")
    return Folder(tuple(_question(at, entry, unreadable) for at, entry in enumerate(entries, 1)), documents)


def _question(at: int, entry: Any, unreadable: frozenset[str]) -> Question:
    if not isinstance(entry, dict) or not isinstance(entry.get("question"), str):
        raise ValueError(f"question {at} needs a text called 'question'")
    expect = tuple((each,) if isinstance(each, str) else tuple(map(str, each)) for each in entry.get("expect") or ())
    kind = str(entry.get("kind", ""))
    documents = frozenset(filter(None, (entry.get("document"), *(entry.get("also") or ()))))
    if expect and not documents:
        raise ValueError(f"question {at} expects an answer, but names no 'document' that holds it")
    return Question(
        id=str(entry.get("id", at)),
        text=entry["question"],
        expect=() if kind in unreadable else expect,
        documents=documents,
        kind=kind,
    )


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
