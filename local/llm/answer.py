"""Answer a question by quoting the passages, or not at all. The model that the stand-in is: simple on purpose.

A passage is cut into sentences, list items and table rows. Each is scored by the words that it shares with the
question, rare words counting more, words of the passage's label or of the line before half as much, and by how alike
the two are as vectors. The best one is quoted with its passage's number; a second one follows when it holds words of
the question that the first does not. When the best scores too little, there is no answer. Nothing in a passage is ever
acted upon, it is only quoted.

The numbers were chosen on XQuAD's English questions (deepmind/xquad; the last paragraph of each article taken away, so
that its questions have no answer), and on nothing else: `evals/README.md`.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import snowballstemmer  # type: ignore[import-untyped]

from local.llm.passages import Passage

# What the best must score: 1 for all of the question's words, and ALIKE for the same direction.
ENOUGH = 0.62
ALIKE = 0.4
SURROUNDINGS = 0.5
# What a second quotation must add, of the question's words by weight.
WORTH_ADDING = 0.15
# A question of so few words leans on the one before it, whose words count half.
FEW = 2
BORROWED = 0.5

# The cosines of a text with others.
Similarities = Callable[[str, Sequence[str]], Sequence[float]]

_WORD = re.compile(r"[^\W_]+(?:[.,:]\d+)*(?:['’][^\W\d_]+)?")
# What stands in brackets at the end does not count: a test makes a question another one by it.
_ASIDE = re.compile(r"\([^()]*\)\W*$")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^\sa-z])")
_BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*+•#>|]|\d{1,3}[.)]\s))")
_MARKUP = re.compile(r"^\s*(?:#{1,6}\s+|[-*+•]\s+|\d{1,3}[.)]\s+|>\s?|\|)|\|\s*$|\*\*|`")
_STEMMER = snowballstemmer.stemmer("english")
_STOP_WORDS = frozenset(
    """a about after all also am an and any are as at be been before being by can could did do does during each for
    from get give given had has have having he her his how i if in into is it its kind long make many may me much must
    my need no not of off often on one only or other our over own per please receive say she should so some such take
    than that the their them then there these they this those to too under until up use used us was we were what when
    where which while who whom whose why will with would you your""".split()
)


@dataclass(frozen=True, slots=True)
class Unit:
    """Something that can be quoted: its text, its stems, and those of its surroundings."""

    passage: int
    text: str
    own: frozenset[str]
    around: frozenset[str]


def answer(question: str, passages: Sequence[Passage], alike: Similarities, *, before: str = "") -> str | None:
    """Quote what answers the question, each quotation followed by `[n]`; None when the passages do not hold it.

    `before` is the user's previous question: a question of few words ("and in Spain?") borrows its words.
    """
    question = _ASIDE.sub("", question)
    own_words = stems(question)
    borrowed = stems(before) if len(own_words) <= FEW else frozenset[str]()
    asked = own_words | borrowed
    found = [unit for passage in passages for unit in units(passage)]
    if not own_words or not found:
        return None
    frequency = Counter(stem for unit in found for stem in unit.own)
    weight = {stem: math.log(1 + len(found) / (1 + frequency[stem])) for stem in asked}
    weight |= {stem: BORROWED * weight[stem] for stem in asked - own_words}
    total = sum(weight.values())

    def weighed(words: frozenset[str]) -> float:
        # Rounded: the order of a set is not that of the next process, and the last digit of a sum depends on it.
        return round(sum(weight[stem] for stem in words & asked) / total, 6)

    whole = f"{before} {question}" if borrowed else question
    cosines = dict(zip(found, alike(whole, [unit.text for unit in found]), strict=True))

    def score(unit: Unit) -> float:
        surroundings = weighed(unit.around - unit.own)
        return round(weighed(unit.own) + SURROUNDINGS * surroundings + ALIKE * cosines[unit], 4)

    best = max(found, key=score)
    if score(best) < ENOUGH:
        return None
    missing = asked - best.own
    second = max(found, key=lambda unit: (weighed(missing & unit.own), score(unit)))
    chosen = [best, second] if weighed(missing & second.own) >= WORTH_ADDING else [best]
    return " ".join(f"{unit.text} [{unit.passage}]" for unit in chosen)


def units(passage: Passage) -> Iterator[Unit]:
    """The sentences, list items and table rows of a passage, without their mark-up."""
    label, previous = stems(passage.label), frozenset[str]()
    for block in _BLOCK.split(passage.text):
        plain = _MARKUP.sub("", " ".join(block.split())).strip()
        for text in _SENTENCE_END.split(plain):
            if own := stems(text):
                yield Unit(passage.number, text, own, label | previous)
                previous = own


@lru_cache(maxsize=20_000)
def stems(text: str) -> frozenset[str]:
    """The stems of the words that mean something; numbers as they are."""
    words = (re.sub(r"['’].*", "", word.lower()) for word in _WORD.findall(text))
    return frozenset(_STEMMER.stemWord(word) for word in words if word and word not in _STOP_WORDS)
