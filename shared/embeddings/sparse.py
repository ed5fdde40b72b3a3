"""BM25 for Qdrant's `modifier: idf`: the documents' half and the question's half. Pure.

BM25 is  Σ idf(t) · tf·(k1+1) / (tf + k1·(1 - b + b·length/average)).  Qdrant multiplies by idf(t), which it
knows from the collection; we store the rest with the passage, and ask with weight 1 per term.
"""

import functools
import hashlib
import re
from collections import Counter
from typing import Protocol

# The usual constants (Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework", section 3.5).
K1 = 1.2
B = 0.75
# Words of a typical passage after stop words. A constant, so that a passage's vector never depends on others;
# our passages are 120 to 220 tokens, about half of which are words that count.
AVERAGE_LENGTH = 90

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
# Words without topical meaning. Short on purpose: idf does the rest.
_STOP = frozenset(
    """a an and are as at be been but by can do does for from had has have how i if in into is it its me my of on or
    our shall should so than that the their them then there these they this those to was we were what when where
    which who whom why will with would you your""".split()
)


class _Stemmer(Protocol):
    def stemWord(self, word: str) -> str: ...  # noqa: N802


def of_passage(text: str) -> dict[int, float]:
    """The stored half: per term its saturated frequency, damped by the length of the passage."""
    counted = Counter(terms(text))
    damping = K1 * (1 - B + B * counted.total() / AVERAGE_LENGTH)
    return {_number(term): round(n * (K1 + 1) / (n + damping), 6) for term, n in counted.items()}


def of_question(text: str) -> dict[int, float]:
    """The asking half: every term once. Empty when the question consists of stop words."""
    return {_number(term): 1.0 for term in terms(text)}


def terms(text: str) -> list[str]:
    """The words and numbers that count, stemmed, in order."""
    words = (word.replace("’", "'").removesuffix("'s") for word in _WORD.findall(text.lower()))
    return [_stem(word) for word in words if word not in _STOP]


@functools.lru_cache(maxsize=50_000)
def _stem(word: str) -> str:
    return _stemmer().stemWord(word)


@functools.lru_cache(maxsize=1)
def _stemmer() -> _Stemmer:
    import snowballstemmer  # type: ignore[import-untyped]

    stemmer: _Stemmer = snowballstemmer.stemmer("english")
    return stemmer


@functools.lru_cache(maxsize=50_000)
def _number(term: str) -> int:
    """A term's index in the sparse vector: 32 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=4).digest(), "big")
