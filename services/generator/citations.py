"""Checks the model's citations against the passages in its prompt. Pure.

A statement is the sentence before its marks `[n]`. A mark is kept when passage n was in the prompt, holds every number
of the statement (in digits or in words, see `numbers.py`), and shares enough of its words; any other mark is removed
from the text. The rest is renumbered in order of appearance. So a `[n]` in the text is always a checked citation:
similar marks (`【1】`, `[1-3]`, `[^1]`, `[1†source]`, a link) are read as the mark they mean, or removed. The quote of
a citation passes the same check without the rest of its passage.

It compares words and numbers. `docs/explanation/citations.md` says what that proves and what it does not.
"""

import functools
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from services.generator.numbers import Reading, read, words_of
from services.generator.prompt import as_seen
from shared.contracts.generate import Candidate
from shared.contracts.outcome import Citation
from shared.text import escaped, visible

# Below this share of common words a passage does not carry a statement, however it was cited.
ENOUGH = 0.3
# Any two English texts share these, so they carry nothing. A statement of nothing else is compared as it is.
_EMPTY = frozenset(
    """
    a about after all also an and any are as at be been before but by can could did do does each for from had has have
    he her his how i if in into is it its may me more most must my no not of on only or other our out over shall she
    should so some such than that the their them then there these they this to under up was we were what when which who
    will with would you your
    """.split()
)
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
_OURS = re.compile(r"\[(\d+)\]")

# -- statements

# After a full stop or a mark, before anything that is not another mark: `A. [1] B [2] C.` is three statements.
_SENTENCE_END = re.compile(r"(?<=[.!?\]])\s+(?=[^\s\[])|\n+")
# A full stop behind one of these ends no sentence: behind the first ones never, behind the others before no capital
# letter; behind a digit, before the name of a month ("am 1. Januar", "den 1. januar").
_ABBREVIATED = re.compile(
    r"(?:^|[\W_])(?:(?P<title>e\.g|i\.e|z\.b|d\.h|u\.a|dr|mrs?|ms|prof|hr|fr|vgl|cf|vs|bzw|incl|inkl|approx|ca|no|nr)"
    r"|a\.m|p\.m|etc|usw|max|min|sec|art|abs|fig|para|dept|est|tel|(?P<day>\d\d?))\.$",
    re.IGNORECASE,
)
_MONTH = re.compile(r"(?:jan|feb|m[aä]r|ap[rp]|ma[ij]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-zä]{0,6}\b", re.IGNORECASE)
# What is left of a list, a table or a block of code when its sentences are taken out.
_LEFT_OVER = re.compile(r"^[ \t]*(?:(?:[-*+]|>{1,3}|#{1,6}|\d{1,3}[.)])[ \t]*|\|[-:| \t]*)(?:\n|\Z)", re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*```[\w+-]{0,20}[ \t]*(?:\n|\Z)", re.MULTILINE)
_EMPTY_FENCE = re.compile(r"^[ \t]*```[^\n`]{0,40}\n\s*```[ \t]*$", re.MULTILINE)
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class Verified:
    """The answer with its confirmed marks only, and their citations in order of appearance."""

    text: str
    citations: tuple[Citation, ...]
    numbers: tuple[int, ...] = ()
    """Of each citation, the number of its passage in the prompt."""


def verify(text: str, passages: Sequence[Candidate]) -> Verified:
    """Keep the citations of `text` that `passages` bear out; passage n is `passages[n - 1]`.

    `text` is as people see it (`shared.text.visible`).
    """

    @functools.cache
    def reading_of(number: int) -> Reading:
        return read(as_seen(passages[number - 1]))

    found: dict[int, Citation] = {}
    kept: list[str] = []
    text = _in_our_marks(text, len(passages))
    for start, end, following in _sentences(text):
        statement = without_marks(text[start:end])
        said = read(statement)
        marked = dict.fromkeys(int(n) for mark in _MARK.findall(text[start:end]) for n in mark.split(","))
        numbers = [n for n in marked if 1 <= n <= len(passages) and _carries(reading_of(n), said)]
        for number in numbers:
            if number not in found:
                found[number] = _citation(len(found) + 1, passages[number - 1], said)
        if numbers:
            markers = sorted(found[number].marker for number in numbers)
            statement = statement.rstrip() + "".join(f" \ue000{marker}\ue001" for marker in markers)
        kept.append(statement + text[end:following])
    # Once more: where two statements meet again, they may form what looks like a mark.
    shown = _HELD.sub(r"[\1]", without_marks("".join(kept))).strip()
    return Verified(shown, tuple(found.values()), tuple(found))


def unverified(text: str) -> list[tuple[int, int]]:
    """Start and end of the sentences without a citation in `text`, which `verify` returned; neighbours are joined.

    A sentence has at least one letter outside of marks.
    """
    spans: list[tuple[int, int]] = []
    joins = False  # nothing verified stands between the last span and here
    for start, end, _ in _sentences(text):
        if _MARK.search(text, start, end):
            joins = False
        elif _LETTER.search(text, start, end):
            spans.append((spans.pop()[0] if joins else start, end))
            joins = True
    return spans


def without_unverified(text: str) -> str:
    """`text`, which `verify` returned, without its unverified sentences."""
    kept, at = [], 0
    for start, end in unverified(text):
        kept.append(text[at:start])
        at = end
    left = _LEFT_OVER.sub("", _EMPTY_FENCE.sub("", "".join((*kept, text[at:]))))
    if len(_FENCE.findall(left)) % 2:  # without its other half it would turn the rest into code
        left = _FENCE.sub("", left)
    return re.sub(r"\n{3,}", "\n\n", left).strip()


def rewritten(text: str, change: Callable[[str], str]) -> str:
    """`text`, which `verify` returned, after `change`, which may take out more; its marks remain the only ones.

    What is taken out may bring together what looks like a mark or like something to take out.
    """
    held = _OURS.sub("\ue000\\1\ue001", text)
    for _ in range(_ROUNDS):
        after = without_marks(change(held))
        if after == held:
            break
        held = after
    else:
        held = change(_BRACKET.sub("", held.replace("<", "‹")))
    return _HELD.sub(r"[\1]", held)


def supports(passage: str, statement: str) -> bool:
    """Whether `passage` may carry `statement`: all of its numbers and enough of its words."""
    return _carries(read(passage), read(statement))


def covers(passage: Candidate, value: str) -> bool:
    """Whether `passage` has every word and number of `value`."""
    there, said = read(as_seen(passage)), read(value)
    return all(map(there.bears, said.stated)) and said.words <= there.words | said.number_words


def _carries(there: Reading, said: Reading) -> bool:
    if not said.words or not all(map(there.bears, said.stated)):
        return False
    words = said.words - _EMPTY or said.words
    return len(words & (there.words | said.number_words)) / len(words) >= ENOUGH


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


def without_marks(sentence: str) -> str:
    """`sentence` without anything that looks like a mark."""
    for _ in range(_ROUNDS):
        shorter = _ALIKE.sub("", sentence)
        if shorter == sentence:
            return shorter
        sentence = shorter
    return _BRACKET.sub("", sentence)


def span_of(passage: Candidate, said: Reading) -> tuple[int, int]:
    """Start and end, in characters of `passage.text`, of the sentences that by themselves carry the statement `said`.

    From the sentence that shares most numbers and words with it as far as is needed; usually that sentence alone.
    """
    text, body = passage.text, repeated(passage)
    label = read(f"{passage.title}\n{passage.section}\n{text[:body]}")
    places = [(start, end) for start, end, _ in _sentences(text, body) if text[start:end].strip()]
    places = places or [(body, len(text))]
    best = max(places, key=lambda place: len(said.words.intersection(words_of(text[slice(*place)]))))
    if _carries(label | read(text[slice(*best)]), said):
        return _stripped(text, *best)
    readings = [read(text[start:end]) for start, end in places]

    def shares(at: int, there: Reading) -> tuple[int, int]:
        """How many numbers and words of the statement sentence `at` adds to those that are `there`."""
        new = sum(readings[at].bears(number) and not there.bears(number) for number in said.stated)
        return new, len((said.words & readings[at].words) - there.words)

    first = last = max(range(len(readings)), key=lambda at: shares(at, label))
    there = label | readings[first]
    while not _carries(there, said):
        outside = [at for at in range(len(readings)) if not first <= at <= last and any(shares(at, there))]
        if not outside:  # what carries it stands across sentences
            return _stripped(text, body, len(text))
        nearest = max(outside, key=lambda at: (shares(at, there)[0] > 0, -min(abs(at - first), abs(at - last))))
        for at in (*range(nearest, first), *range(last + 1, nearest + 1)):
            there = there | readings[at]
        first, last = min(first, nearest), max(last, nearest)
    return _stripped(text, places[first][0], places[last][1])


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the white space at its ends."""
    found = text[start:end]
    return end - len(found.lstrip()), start + len(found.rstrip())


def repeated(passage: Candidate) -> int:
    """The characters at the beginning of `passage.text` that stand elsewhere in the document.

    Each part of a table that was split begins with its header, a whole number of lines (`services/indexer/chunk.py`).
    """
    more = len(passage.text) - (passage.end - passage.start)
    return passage.text.find("\n", more - 1) + 1 if more > 0 else 0


def _citation(marker: int, passage: Candidate, said: Reading) -> Citation:
    start, end = span_of(passage, said)
    # Where the text of the passage stands in the document.
    at = passage.start - repeated(passage)
    return Citation(
        marker=marker,
        path=escaped(passage.path),
        version=passage.version,
        title=visible(passage.title),
        section=visible(passage.section),
        page=passage.page,
        start=at + start,
        end=at + end,
        quote=visible(passage.text[start:end]),
        score=passage.score,
    )


def _sentences(text: str, start: int = 0) -> Iterator[tuple[int, int, int]]:
    """Of each sentence, with its marks: where it starts, where it ends, and where the white space after it ends."""
    for gap in _SENTENCE_END.finditer(text, start):
        if text[gap.start() - 1] == "." and "\n" not in gap[0] and _goes_on(text, max(start, gap.start() - 10), gap):
            continue
        yield start, gap.start(), gap.end()
        start = gap.end()
    yield start, len(text), len(text)


def _goes_on(text: str, start: int, gap: re.Match[str]) -> bool:
    """Whether the full stop before `gap` belongs to an abbreviation or a date."""
    found = _ABBREVIATED.search(text[start : gap.start()])
    if found is None:
        return False
    if found["day"]:
        return _MONTH.match(text, gap.end()) is not None
    return bool(found["title"]) or not text[gap.end()].isupper()
