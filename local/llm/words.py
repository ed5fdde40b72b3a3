"""Which words of a sentence carry its meaning, and how much.

English only, like the stemmer. Words that merely frame a question ("how many … do I get") are dropped; words that any
handbook uses anywhere ("company", "apply") count little; names, years and codes such as `L5` count more, because they
tell one near-duplicate passage from another.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import snowballstemmer  # type: ignore[import-untyped]

_WORD = re.compile(r"\d+(?:[.,:]\d+)*(?![^\W\d_])|[^\W_]+(?:['’][^\W_]+)?")
A_NAME, A_YEAR, COMMON = 1.5, 2.0, 0.35  # weights; any other word has 1
YEAR = re.compile(r"(?:19|20)\d\d")
_STEMMER = snowballstemmer.stemmer("english")

_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_IRREGULAR = {word: str(value) for value, word in enumerate(_NUMBERS)} | dict(
    pair.split(":")
    for pair in """
    began:begin begun:begin bought:buy brought:bring chose:choos chosen:choos gave:give given:give held:hold kept:keep
    left:leav lent:lend lost:lose made:make met:meet paid:pay sent:send spent:spend taken:take told:tell took:take
    wore:wear worn:wear written:write wrote:write
    """.split()
)

STOPWORDS = frozenset(
    """
    a about after all also am an and any anyone anything are around as at be because been before being
    between big both but by can compared could d did do does doing don done down during each either else
    ever every far few for from further get gets getting given go goes going got had has have having he
    heavy her here hers high him his how however i if in into is it its itself just large let ll long m many
    may maybe me might mine more most much must my myself neither no nor not now of off often old on once
    only or other our ours out over own per please quickly re s same shall she should so some somebody
    someone something soon such t tell than thanks that the their theirs them themselves then there these
    they this those through to too under until up upon us ve very want was we were what whatever when
    whenever where whether which while who whom whose why will with within without would yes yet you your
    yours
    """.split()
)
WEAK = frozenset(
    """
    according actually allowed amount answer applies apply asked available basis begin called case change
    check chf colleague colleagues come company current currently day days different dkk employee employees
    employer entitled entitlement eur euro euros exactly exist expect explain find follow full gbp give
    gives happen happens help hour hours include included including job joined know last least like limit
    list long longest look main make makes maximum mean means minimum month months name necessary need
    needed needs new night nights nok number offer offered offers office part people period periods person
    personal please policies policy possible process provide provided provides put question quickly receive
    received regarding required rule rules say says see sek set situation staff stand stands start starts
    still take takes taking team thing things time times type usd use used uses using usually value way week
    weeks work worked worker workers working works year years
    """.split()
)
PRONOUNS = frozenset("it its that they them those these this there he she his her one ones same".split())


@dataclass(frozen=True)
class Word:
    """A content word: as written, its stem, its weight in a question."""

    written: str
    stem: str
    weight: float = 1.0


@lru_cache(maxsize=20_000)
def stems(text: str) -> frozenset[str]:
    """The stems of all content words."""
    return frozenset(word.stem for word in content_words(text))


def content_words(text: str) -> tuple[Word, ...]:
    """The words that carry meaning, in order, repeats kept."""
    found = []
    for match in _WORD.finditer(text):
        written = match[0]
        plain = _plain(written)
        if plain and plain not in STOPWORDS:
            opens = _opens_a_sentence(text, match.start())
            found.append(Word(written, stem(plain), _weight(written, plain, opens)))
    return tuple(found)


def spoken_words(text: str) -> list[str]:
    """Every word in lower case, stopwords too."""
    return [match[0].lower() for match in _WORD.finditer(text)]


@lru_cache(maxsize=20_000)
def pairs(text: str) -> frozenset[tuple[str, str]]:
    """Neighbouring stems, in order."""
    return frozenset(pairwise(word.stem for word in content_words(text)))


@lru_cache(maxsize=20_000)
def years(text: str) -> frozenset[str]:
    """The years that a text mentions."""
    return frozenset(found for found in _WORD.findall(text) if YEAR.fullmatch(found))


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """The word without its ending; number words become digits, irregular verbs regular."""
    return _IRREGULAR.get(word) or str(_STEMMER.stemWord(word))


def _plain(written: str) -> str:
    if written[0].isdigit():
        return written.replace(",", "") if "," in written else written
    return re.sub(r"['’].*", "", written.lower())


def _weight(written: str, plain: str, opens: bool) -> float:
    if YEAR.fullmatch(plain):
        return A_YEAR
    if plain in WEAK:
        return COMMON
    if not _is_a_name(written, opens):
        return 1.0
    return 1.0 if written[-2:] in ("'s", "’s") else A_NAME  # "Contoso's" may only say whose handbook it is


def _is_a_name(written: str, opens: bool) -> bool:
    has_digit = any(letter.isdigit() for letter in written)
    has_letter = any(letter.isalpha() for letter in written)
    acronym = written.isupper() and len(written) > 1
    return has_letter and (has_digit or acronym or (written[0].isupper() and not opens))


def _opens_a_sentence(text: str, at: int) -> bool:
    before = text[:at].rstrip(" \t\"'“‘([*_")
    return not before or before[-1] in ".!?:\n"
