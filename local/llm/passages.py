"""Read a grounded prompt: labelled passages, then a question.

    [[passage 1 8f3a2c41 | Leave policy › Parental leave]]
    Parents receive 16 weeks of paid leave.
    [[end 1 8f3a2c41]]

    Question: How long is parental leave?

The boundary (hex, random per prompt) tells a passage's real end from one that the document's author typed, and only a
`Question:` outside every passage counts. So nothing written *in* a passage can end it, add another or ask something.
"""

import re
from dataclasses import dataclass

_OPENING = re.compile(r"\[\[passage (\d{1,4}) ([0-9A-Za-z-]{4,64})(?: ?\| ?(.*))?\]\]")
_QUESTION = re.compile(r"Question:[ \t]*(.*)", re.IGNORECASE)
_SENTINEL = re.compile(r"reply exactly:\s*(\S+)", re.IGNORECASE)
_DRESSING = "\"'`“”‘’.,;"
DEFAULT_SENTINEL = "NO_ANSWER"


@dataclass(frozen=True)
class Passage:
    """One numbered piece of a document; `label` says where it stands, such as `Leave policy › Parental leave`."""

    number: int
    label: str
    text: str


@dataclass(frozen=True)
class Prompt:
    """A user message, read."""

    passages: tuple[Passage, ...]
    question: str


def read(message: str) -> Prompt:
    """Split a user message into its passages and its question; without any mark-up all of it is the question."""
    lines = message.splitlines()
    passages: list[Passage] = []
    loose: list[str] = []
    position = 0
    while position < len(lines):
        if found := _passage_at(lines, position):
            passage, position = found
            passages.append(passage)
        elif asked := _QUESTION.match(lines[position].strip()):
            rest = [asked[1], *lines[position + 1 :]]
            return Prompt(tuple(passages), "\n".join(rest).strip())
        else:
            loose.append(lines[position])
            position += 1
    return Prompt(tuple(passages), "\n".join(loose).strip())


def sentinel(system_messages: list[str]) -> str:
    """The reply that the system messages ask for when the passages do not hold the answer."""
    asked = [match[1].strip(_DRESSING) for text in system_messages if (match := _SENTINEL.search(text))]
    return next((word for word in asked if word), DEFAULT_SENTINEL)


def _passage_at(lines: list[str], start: int) -> tuple[Passage, int] | None:
    """The passage that opens in line `start`, and the line after it; None when none opens there."""
    opening = _OPENING.fullmatch(lines[start].strip())
    if opening is None:
        return None
    number, boundary, label = opening[1], opening[2], opening[3] or ""
    closing = f"[[end {number} {boundary}]]"
    for end in range(start + 1, len(lines)):
        if lines[end].strip() == closing:
            return Passage(int(number), label.strip(), "\n".join(lines[start + 1 : end])), end + 1
    return None  # never closed: plain text
