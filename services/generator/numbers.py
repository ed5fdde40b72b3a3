"""The numbers in a text, in digits or in English words, so that "two weeks" can be compared with "14 days". Pure.

    24   1,500 = 1.500 = 1 500 = 1500   1,5 = 1.5   10:00 = 10 am   €62 = EUR 62 = 62 euros   15 % = fifteen percent
    twenty-five = 25   the 10th = the tenth   a dozen = 12   half a day = 12 hours   nine million = 9,000,000

A dot or comma before exactly three digits groups thousands. What is neither a number nor a time (A4, 10.0.0.1) counts
as it is written. A small word that is often no number ("one must", "first", "both", "a year") bears a statement out
when it stands in a passage, and is not checked in a statement unless a unit follows ("one day", "the first week").
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Value = int | float | str

_WORD = re.compile(r"[^\W_]+(?:[.,:][0-9]+(?:[a-zA-Z]{1,3}\b)?)*")
# A number and its unit do not stand on both sides of a full stop, a line end or a cell's border.
_TOKEN = re.compile(rf"{_WORD.pattern}|[.!?](?=\s)|[\n|]")
_BREAKS = frozenset(".!?\n|")
_GROUPED = re.compile(r"(?<![\d.,:])\d{1,3}(?:[ \u00a0\u202f'’]\d{3})+(?![\d:])")
_SYMBOLS = {"€": " eur ", "$": " usd ", "£": " gbp ", "¥": " jpy ", "%": " percent "}
_SYMBOL = re.compile("[€$£¥%]")
_WITH_LETTERS = re.compile(r"([a-z]{3})?(\d[\d.,:]*)([a-z]{1,4}|[½¼¾])?")
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:(?:,\d{3})+|(?:\.\d{3})+)(?:[.,]\d{1,2})?")
_TIME = re.compile(r"([01]?\d|2[0-4]):([0-5]\d)")
_LONGEST = 30  # digits of a number; a longer one is compared as it is written
_HUGE = 10**15  # "million million …" ends here

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen " \
        "seventeen eighteen nineteen"  # fmt: skip
_ORDINALS = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth " \
            "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"  # fmt: skip
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = (
    {word: number for number, word in enumerate(_ONES.split())}
    | {word: number for number, word in enumerate(_ORDINALS.split())}
    | {word: 10 * number for number, word in enumerate(_TENS.split(), 2)}
    | {word[:-1] + "ieth": 10 * number for number, word in enumerate(_TENS.split(), 2)}
)
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_SCALES |= {f"{word}s": factor for word, factor in _SCALES.items()} | {"hundredth": 100, "thousandth": 1_000}
_SHORT_SCALES = {"k": 1_000, "mio": 1_000_000, "mn": 1_000_000, "bn": 1_000_000_000}
_OF_MONEY = {"m": 1_000_000, "b": 1_000_000_000}  # of a currency: 3m are metres
_MONEY = re.compile(r"(\d[\d.,]*)([mb])")
_PARTS = {"half": 0.5, "quarter": 0.25, "½": 0.5, "¼": 0.25, "¾": 0.75}
# Often no number: checked only before a unit.
_WEAK = {"zero", "one", "first", "second", "third"}
_ALSO = {"both": 2, "couple": 2, "pair": 2, "twice": 2, "double": 2, "once": 1, "single": 1}
_ARTICLES = ("a", "an", "per", "each", "every", "another")

_NAMES = {
    "second": "second seconds sec secs s",
    "minute": "minute minutes min mins",
    "hour": "hour hours h hr hrs",
    "day": "day days",
    "week": "week weeks wk wks",
    "fortnight": "fortnight fortnights",
    "month": "month months",
    "year": "year years yr yrs",
    "percent": "percent pct",
    "eur": "eur euro euros", "usd": "usd dollar dollars", "gbp": "gbp pound pounds", "jpy": "jpy yen",
    "chf": "chf francs", "dkk": "dkk", "sek": "sek", "nok": "nok", "pln": "pln zloty", "czk": "czk",
    "m": "metre metres meter meters", "km": "km kilometre kilometres kilometer kilometers", "cm": "cm", "mm": "mm",
    "kg": "kg kilogram kilograms", "g": "gram grams",
    "gb": "gb gigabyte gigabytes", "mb": "mb megabyte megabytes", "kb": "kb kilobyte kilobytes", "tb": "tb",
}  # fmt: skip
_UNITS = {word: unit for unit, words in _NAMES.items() for word in words.split()}
_CURRENCIES = frozenset(("eur", "usd", "gbp", "jpy", "chf", "dkk", "sek", "nok", "pln", "czk"))
_BASES: dict[str, tuple[str, float]] = {
    "second": ("second", 1), "minute": ("second", 60), "hour": ("second", 3_600), "day": ("second", 86_400),
    "week": ("second", 604_800), "fortnight": ("second", 1_209_600), "month": ("month", 1), "year": ("month", 12),
    "km": ("m", 1_000), "m": ("m", 1), "cm": ("m", 0.01), "mm": ("m", 0.001), "kg": ("g", 1_000), "g": ("g", 1),
}  # fmt: skip
# A working day is a day, but five of them are not seven days.
_WORKING = frozenset(("working", "business"))
_BETWEEN = _WORKING | {"calendar", "full", "whole", "consecutive", "paid", "additional", "extra", "more", "further"}
_SAME = frozenset(("day", "working day"))
# Behind the last word, so that what follows a number can always be looked at.
_BEHIND = ("", "", "", "")
# "half the staff", "both", "first": a value that bears no quantity out.
_OF_SOMETHING = "of something"
# A time with am or pm, and a time of day without it: "5:30" may be 17:30, "5:30 am" may not.
_CLOCK, _TWELVE = "of the day", "of twelve hours"
_CONNECTING = frozenset(("to", "or", "and"))


class Number(NamedTuple):
    """A value and its unit (empty: none is known)."""

    value: Value
    unit: str = ""


@dataclass(slots=True)
class Reading:
    """What a text says, as far as words and numbers go."""

    words: set[str] = field(default_factory=set)
    """In lower case, with those of its numbers."""
    stated: list[Number] = field(default_factory=list)
    """The numbers that a passage must bear out."""
    number_words: set[str] = field(default_factory=set)
    """Those of `words` that `stated` was read from."""
    units: dict[Value, set[str]] = field(default_factory=dict)
    """Every value that it holds, with the units it has there."""
    bases: set[tuple[str, float]] = field(default_factory=set)
    """Every quantity that it holds, in the smallest unit of its kind."""

    def bears(self, number: Number) -> bool:
        """Whether the text holds `number`: the same value, without a unit or in one that can be converted."""
        there = self.units.get(number.value)
        if there is not None and (not number.unit or "" in there or number.unit in there):
            return True
        if there is not None and number.unit in _SAME and there & _SAME:
            return True
        return _base(number) in self.bases

    def __or__(self, other: "Reading") -> "Reading":
        """What both texts say."""
        units = {value: set(there) for value, there in self.units.items()}
        for value, there in other.units.items():
            units.setdefault(value, set()).update(there)
        return Reading(
            self.words | other.words,
            self.stated + other.stated,
            self.number_words | other.number_words,
            units,
            self.bases | other.bases,
        )

    def add(self, number: Number) -> None:
        """Note that the text holds `number`."""
        self.units.setdefault(number.value, set()).add(number.unit)
        base = _base(number)
        if base is not None:
            self.bases.add(base)


def words_of(text: str) -> list[str]:
    """The words of `text` in lower case, with those that have digits."""
    return _WORD.findall(text.casefold())


def read(text: str) -> Reading:
    """The words and numbers of `text`."""
    if _SYMBOL.search(text):
        text = _SYMBOL.sub(lambda symbol: _SYMBOLS[symbol[0]], text)
    text = _GROUPED.sub(lambda grouped: re.sub(r"\D", "", grouped[0]), text)
    tokens = [*_TOKEN.findall(text.casefold()), *_BEHIND]
    found = Reading(words=set(tokens) - _BREAKS - {""})
    starts = [at for at, word in enumerate(tokens) if word in _STARTS or not word.isalpha()]
    open_range: Number | None = None  # "2 to" of "2 to 4 weeks"
    next_to, taken = -1, 0
    for at in starts:
        if at < taken or tokens[at] in _BREAKS or not tokens[at]:
            continue
        number, taken, weak = _number(tokens, at)
        if number is None:
            continue
        if open_range is not None and at == next_to and number.unit and not isinstance(number.value, str):
            found.add(Number(open_range.value, number.unit))
            found.stated[-1] = Number(open_range.value, number.unit)
        if weak and tokens[at] in _ARTICLES:  # "a day" bears "one day" and "24 hours" out, and no bare 1
            found.bases |= {base} if (base := _base(number)) else set()
            continue
        found.add(number)
        for same in _also(number):
            found.add(same)
        if weak:
            continue
        found.stated.append(number)
        found.number_words.update(tokens[at:taken])
        is_open = not number.unit and tokens[taken] in _CONNECTING and not isinstance(number.value, str)
        open_range, next_to = (number, taken + 1) if is_open else (None, -1)
    return found


def _number(tokens: Sequence[str], at: int) -> tuple[Number | None, int, bool]:
    """The number that begins at `at`, the index behind it, and whether a statement may use it without meaning it."""
    token = tokens[at]
    if token in _ALSO:
        return Number(_ALSO[token], _OF_SOMETHING), at + 1, True
    if token in _ARTICLES and tokens[at + 1] not in _SCALES:
        unit, end = _unit(tokens, at + 1)
        # "24 days a year" and "within a week" look alike, so it is not checked.
        return (Number(1, unit), end, True) if unit else (None, at + 1, True)
    if token in _PARTS and not token.isdigit():
        of = at + 1 + (tokens[at + 1] == "of")
        unit, end = _unit(tokens, of + (tokens[of] in ("a", "an")))
        if unit:
            return Number(_PARTS[token], unit), end, False
        return Number(_PARTS[token], _OF_SOMETHING), at + 1, True
    if token in _SMALL or token in _SCALES or token in _ARTICLES:
        spelled, end = _spelled(tokens, at + (token in _ARTICLES))
        weak = end == at + 1 and token in _WEAK
        number, end = _with_unit(spelled, "", tokens, at, end)
        if weak and not number.unit and token not in ("zero", "one"):
            number = Number(spelled, _OF_SOMETHING)
        return number, end, weak and number.unit in ("", _OF_SOMETHING)
    money = _MONEY.fullmatch(token)
    if money and _CURRENCIES & {_UNITS.get(tokens[at - 1], "") if at else "", _UNITS.get(tokens[at + 1], "")}:
        value, unit = _plain(money[1]), ""
        value = value if isinstance(value, str) else _exact(value * _OF_MONEY[money[2]])
    else:
        value, unit = _written(token)
    if isinstance(value, str):
        number, end = _with_unit(value, unit, tokens, at, at + 1) if _TIME.fullmatch(value) else (Number(value), at + 1)
        return (number, end, False) if number.unit == _CLOCK else (Number(value), at + 1, False)
    end = at + 1
    while tokens[end] in _SCALES and value < _HUGE:
        value, end = _exact(value * _SCALES[tokens[end]]), end + 1
    number, end = _with_unit(value, unit, tokens, at, end)
    return number, end, False


def _with_unit(value: Value, unit: str, tokens: Sequence[str], at: int, end: int) -> tuple[Number, int]:
    """`value` with the unit that it has, or that stands behind or (a currency) before it."""
    following = tokens[end]
    if following == "and" and tokens[end + 1 : end + 3] == ["a", "half"] and not isinstance(value, str):
        value, end = value + 0.5, end + 3
        following = tokens[end]
    if unit:
        return Number(value, unit), end
    if following in ("am", "pm"):
        return Number(_clock(value, following[0]), _CLOCK), end + 1
    if following in ("a", "p") and tokens[end + 1] == "m":
        return Number(_clock(value, following), _CLOCK), end + 2
    unit, behind = _unit(tokens, end)
    before = _UNITS.get(tokens[at - 1], "") if at else ""
    if not unit and before in _CURRENCIES:
        return Number(value, before), end
    return Number(value, unit), behind


def _unit(tokens: Sequence[str], at: int) -> tuple[str, int]:
    """The unit at `at` and the index behind it, over an adjective ("working days")."""
    word = tokens[at]
    if word in _BETWEEN:
        unit = _UNITS.get(tokens[at + 1], "")
        return ("working day" if unit == "day" and word in _WORKING else unit), at + 2 if unit else at
    if word == "per" and tokens[at + 1] == "cent":
        return "percent", at + 2
    unit = _UNITS.get(word, "") if len(word) > 1 else ""
    return unit, at + bool(unit)


def _spelled(tokens: Sequence[str], at: int) -> tuple[int, int]:
    """The number in words at `at`, and the index behind it."""
    total = current = 0
    below = 1_000  # what may follow: a smaller place than the last one
    while word := tokens[at]:
        if word in _SMALL and _SMALL[word] < below:
            value = _SMALL[word]
            current, below = current + value, 10 if value >= 20 else 1
        elif word in _SCALES and current < _HUGE:
            current, below = max(current, 1) * _SCALES[word], 100
            if _SCALES[word] >= 1_000:
                total, current, below = total + current, 0, 1_000
        elif not (word == "and" and below >= 100 and tokens[at - 1] in _SCALES and tokens[at + 1] in _SMALL):
            break
        at += 1
    return total + current, at


def _written(token: str) -> tuple[Value, str]:
    """The value and unit of a token with digits; as it is written when it is no number."""
    if token.isdecimal() and len(token) <= _LONGEST:
        return _plain(token), ""
    whole = _WITH_LETTERS.fullmatch(token)
    if whole is None or len(token) > _LONGEST:
        return token, ""
    before, digits, behind = whole[1] or "", whole[2], whole[3] or ""
    value = _plain(digits)
    if behind in ("am", "pm") and not before and (not isinstance(value, str) or _TIME.fullmatch(value)):
        return _clock(value, behind[0]), _CLOCK
    if isinstance(value, str):
        return (value, "") if not before and not behind else (token, "")
    if behind in _PARTS:
        return value + _PARTS[behind], ""
    if behind in ("st", "nd", "rd", "th", "") and (not before or before in _CURRENCIES):
        return value, before
    if behind in _SHORT_SCALES and (not before or before in _CURRENCIES):
        return _exact(value * _SHORT_SCALES[behind]), before
    return (value, _UNITS[behind]) if behind in _UNITS and not before else (token, "")


def _plain(digits: str) -> Value:
    """The value of digits with separators; as they are written when there is none."""
    if digits.isdecimal():
        # An identifier such as 0044 is not 44; the 01 of a date is 1.
        return int(digits) if digits[0] != "0" or len(digits) <= 2 else digits
    if time := _TIME.fullmatch(digits):
        return _minutes(int(time[1]), int(time[2]))
    if _THOUSANDS.fullmatch(digits):
        whole, fraction = re.fullmatch(r"(.*?)(?:[.,](\d{1,2}))?", digits).groups()  # type: ignore[union-attr]
        return _exact(float(re.sub(r"\D", "", whole) + "." + (fraction or "0")))
    decimal = digits.replace(",", ".")
    return _exact(float(decimal)) if decimal.count(".") == 1 and ":" not in decimal else digits


def _exact(number: float) -> int | float:
    return int(number) if number == int(number) else round(number, 9)


def _minutes(hours: int, minutes: int) -> str:
    return f"{hours}:{minutes:02}"


def _clock(value: Value, half: str) -> str:
    """A time of twelve hours, in the words of `_minutes`. `half`: a or p."""
    text = str(value)
    hours, minutes = (int(part) for part in text.split(":")) if ":" in text else (int(float(text)), 0)
    return _minutes(hours % 12 + (12 if half == "p" else 0), minutes)


def _also(number: Number) -> Iterable[Number]:
    """What else is true where `number` stands."""
    if isinstance(number.value, str) and (time := _TIME.fullmatch(number.value)):
        hours, minutes = int(time[1]), time[2]
        yield Number(f"{hours % 12 or 12}:{minutes}", _TWELVE)
        if minutes == "00":
            yield Number(hours, "o'clock")
            yield Number(hours % 12 or 12, "o'clock")
    if number.value == 0.5 and number.unit == _OF_SOMETHING:
        yield Number(50, "percent")


def _base(number: Number) -> tuple[str, float] | None:
    if number.unit not in _BASES or isinstance(number.value, str):
        return None
    kind, factor = _BASES[number.unit]
    return kind, _exact(number.value * factor)


_STARTS = frozenset((*_SMALL, *_SCALES, *_PARTS, *_ALSO, *_ARTICLES))
