"""Checks the model's citations against the passages in its prompt. Pure.

A statement is the sentence before its marks `[n]`. A mark is kept when passage n was in the prompt, contains every
number of the statement, and shares enough of its words; any other mark is removed from the text. The rest is renumbered
in order of appearance. So a `[n]` in the text is always a checked citation: similar marks (`【1】`, `[1-3]`, `[^1]`,
`[1†source]`, a link) are read as the mark they mean, or removed.

It compares words. `docs/explanation/citations.md` says what that proves and what it does not.
"""

import functools
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shared.contracts.generate import Candidate
from shared.contracts.outcome import Citation
from shared.text import escaped, visible

# Below this share of common words a passage does not carry a statement, however it was cited.
ENOUGH = 0.3
_MARK = re.compile(r"\s?\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")

# -- what looks like a mark
_OPEN, _CLOSE = r"\\?[\[［【〔〖⟦]", r"\\?[\]］】〕〗⟧]"
_BRACKET = re.compile(rf"{_OPEN}|{_CLOSE}")
_MARK_OR_BRACKET = re.compile(rf"(\[\d{{1,3}}(?:, \d{{1,3}})*\])|{_BRACKET.pattern}")
# Removing text may bring together what then looks like a mark, so it is repeated, up to this often. A hostile text
# could need a round for every few characters: one that still changes then loses all other brackets.
_ROUNDS = 5
_ITEM = (
    r"(?:(?:passages?|sources?|references?|refs?|documents?|docs?|citations?)\W{0,2})?"
    r"\d{1,30}(?:\s?[-–—−]\s?\d{1,30})?"
)
_ITEMS = rf"(?P<sign>[\^#*@+−–-]?)\s?(?P<items>{_ITEM}(?:(?:\s?(?:[,;、，；/&|]|and)\s?|\s){_ITEM})*)"
# No bracket, and not a confirmed mark (`_HELD`).
_PLAIN = r"[^\[\]【】\n\ue000\ue001]"
# What is added to a number: OpenAI's `1†source`, `1: Leave policy`, `1, p. 3`.
_ADDED = rf"(?:\s?†{_PLAIN}{{0,80}}|:\s{_PLAIN}{{0,80}}|,\s?pp?\.\s?\d{_PLAIN}{{0,20}})?"
_NAMED = rf"(?:sources?|references?|refs?|citations?)\s?:{_PLAIN}{{0,200}}"
# `[1](https://…)` would be a link that looks like a mark of ours.
_TARGET = r"\([^()\n]{0,2000}\)"
_ALIKE = re.compile(
    rf"[^\S\n]?(?P<open>{_OPEN}){{1,3}}\s{{0,3}}(?:{_ITEMS}{_ADDED}|{_NAMED})\s{{0,3}}"
    rf"(?P<close>{_CLOSE})(?:{_CLOSE}){{0,2}}(?:{_TARGET})*",
    re.IGNORECASE,
)
_RANGE = re.compile(r"(\d{1,30})(?:\s?[-–—−]\s?(\d{1,30}))?")
# `[1]: https://…` on a line of its own would make a link of every `[1]` (CommonMark 0.31.2, section 4.7).
_DEFINITION = re.compile(rf"^[ >*+-]{{0,12}}{_OPEN}\^?\d[^\[\]\n]{{0,80}}{_CLOSE}\s?:.*$", re.MULTILINE)
_LINKED = re.compile(rf"\](?:{_TARGET}|(?=\[))")

# Brackets of a confirmed mark, until all others are removed: two characters that visible text cannot contain.
_HELD = re.compile("\ue000(\\d+)\ue001")

# -- statements

# After a full stop or a mark, before anything that is not another mark: `A. [1] B [2] C.` is three statements.
_SENTENCE_END = re.compile(r"(?<=[.!?\]])\s+(?=[^\s\[])|\n+")
_WORD = re.compile(r"[^\W_]+(?:[.,:][0-9]+)*", re.UNICODE)
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class Verified:
    """The answer with its confirmed marks only, and their citations in order of appearance."""

    text: str
    citations: tuple[Citation, ...]


def verify(text: str, passages: Sequence[Candidate]) -> Verified:
    """Keep the citations of `text` that `passages` bear out; passage n is `passages[n - 1]`.

    `text` is as people see it (`shared.text.visible`).
    """

    @functools.cache
    def words_of(number: int) -> set[str]:
        # All that the model saw of a passage: the label is part of it, and may contain the relevant year.
        passage = passages[number - 1]
        return _words(f"{passage.title}\n{passage.section}\n{passage.text}")

    found: dict[int, Citation] = {}
    kept: list[str] = []
    text = _in_our_marks(text, len(passages))
    for start, end, following in _sentences(text):
        statement = _without_marks(text[start:end])
        said = _words(statement)
        marked = dict.fromkeys(int(n) for mark in _MARK.findall(text[start:end]) for n in mark.split(","))
        numbers = [n for n in marked if 1 <= n <= len(passages) and _carries(words_of(n), said)]
        for number in numbers:
            if number not in found:
                found[number] = _citation(len(found) + 1, passages[number - 1], statement)
        if numbers:
            markers = sorted(found[number].marker for number in numbers)
            statement = statement.rstrip() + "".join(f" \ue000{marker}\ue001" for marker in markers)
        kept.append(statement + text[end:following])
    # Once more: where two statements meet again, they may form what looks like a mark.
    return Verified(_HELD.sub(r"[\1]", _without_marks("".join(kept))).strip(), tuple(found.values()))


def supports(passage: str, statement: str) -> bool:
    """Whether `passage` may carry `statement`: all of its numbers and enough of its words."""
    return _carries(_words(passage), _words(statement))


def _carries(there: set[str], said: set[str]) -> bool:
    if not said:
        return False
    numbers = {word for word in said if _DIGIT.search(word)}
    return numbers <= there and len(said & there) / len(said) >= ENOUGH


def _in_our_marks(text: str, passages: int) -> str:
    """`text` with every mark as `[n, m]`, existing passages only, and no links on marks."""

    def as_mark(alike: re.Match[str]) -> str:
        numbers: dict[int, None] = {}
        if alike["items"] and alike["sign"] in ("", "^", "#"):
            for first, last in _RANGE.findall(alike["items"]):
                numbers |= dict.fromkeys(range(int(first), min(int(last or first), passages) + 1))
        there = [str(number) for number in numbers if 1 <= number <= passages]
        before = " " if alike[0][0].isspace() else ""
        return f"{before}[{', '.join(there)}]" if there else ""

    for _ in range(_ROUNDS):
        plain = _ALIKE.sub(as_mark, _off_links(_DEFINITION.sub("", text)))
        if plain == text:
            return plain
        text = plain
    # Between plain marks there is no bracket now, so that no removal can form another mark.
    text = _MARK_OR_BRACKET.sub(lambda found: found[1] or "", text)
    return _DEFINITION.sub("", _ALIKE.sub(as_mark, text))


def _off_links(text: str) -> str:
    """`text` without the brackets and targets of links that have a mark in their words."""
    # From the innermost brackets: the outer ones of a mark may be those of the link.
    marks = [(alike.start("open"), alike.end("close")) for alike in _ALIKE.finditer(text)]
    marks.append((len(text), len(text)))
    opened: list[int] = []
    gone: list[tuple[int, int]] = []
    for bracket in re.finditer(r"[\[\]]", text):
        if bracket[0] == "[":
            opened.append(bracket.start())
        elif opened:
            start = opened.pop()
            link = _LINKED.match(text, bracket.start())
            if link and marks[bisect_right(marks, (start, len(text)))][1] <= bracket.start():
                gone += [(start, start + 1), link.span()]
    kept: list[str] = []
    at = 0
    for start, end in sorted(gone):
        kept.append(text[at:start])
        at = max(at, end)
    return "".join(kept) + text[at:]


def _without_marks(sentence: str) -> str:
    for _ in range(_ROUNDS):
        shorter = _ALIKE.sub("", sentence)
        if shorter == sentence:
            return shorter
        sentence = shorter
    return _BRACKET.sub("", sentence)


def best_quote(passage: str, statement: str) -> tuple[int, int]:
    """Start and end, in characters, of the sentence of `passage` that shares most words with `statement`.

    The whole passage when no sentence shares any.
    """
    said = _words(statement)
    best, most = (0, len(passage)), 0
    for start, end, _ in _sentences(passage):
        common = len(said & _words(passage[start:end]))
        if common > most:
            best, most = (start, end), common
    return best


def _citation(marker: int, passage: Candidate, statement: str) -> Citation:
    start, end = best_quote(passage.text, statement)
    return Citation(
        marker=marker,
        path=escaped(passage.path),
        version=passage.version,
        title=visible(passage.title),
        section=visible(passage.section),
        page=passage.page,
        start=passage.start + start,
        end=passage.start + end,
        quote=visible(passage.text[start:end]).strip(),
        score=passage.score,
    )


def _sentences(text: str) -> Iterator[tuple[int, int, int]]:
    """Of each sentence, with its marks: where it starts, where it ends, and where the white space after it ends."""
    start = 0
    for gap in _SENTENCE_END.finditer(text):
        yield start, gap.start(), gap.end()
        start = gap.end()
    yield start, len(text), len(text)


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)}
