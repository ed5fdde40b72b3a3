"""Which characters of a text are visible. Pure; the only place that decides it.

Characters that a model reads and people do not see can carry instructions (OWASP LLM01); characters that move a cursor
or change the direction of writing can make a text look different. So every text from outside is kept as people see it:
documents, questions, conversations, replies of models, errors of other programs. These are removed:

    Default_Ignorable_Code_Point   joiners, variation selectors, soft hyphens, Hangul fillers, tags
    general category Cf            format characters; bidirectional controls are among them
    C0 and C1 controls             but for the tab; every line break becomes a line feed
    surrogates, private use, noncharacters

The cost: a joined emoji falls into its parts, a heart loses its colour, Persian and Indic words lose the joiners that
choose the shape of a letter (they stay legible), icons of private fonts disappear, and so do the few number signs of
Arabic and Kaithi of category Cf. Nothing is normalised: NFKC would turn 10⁵ into 105.
"""

import re

# Unicode 18.0.0, DerivedCoreProperties.txt and DerivedGeneralCategory.txt. A constant, because Python 3.11 has the
# tables of 14.0, and the set must not depend on the interpreter.
_BASIC = (
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"  # controls
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"  # ignorable
    "\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\ufff9-\ufffb"  # format
    "\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff"  # surrogates, private use, noncharacters
)
_BEYOND = (
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # ignorable
    "\U000110bd\U000110cd\U00013430-\U0001343f"  # format
    "\U000f0000-\U0010ffff"  # private use
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0xF0000, 0x10000))
)
# Two, because a class that reaches beyond the basic plane is searched fifteen times more slowly.
_HIDDEN = re.compile(f"[{_BASIC}]")
_HIDDEN_BEYOND = re.compile(f"[{_BEYOND}]")
_IS_BEYOND = re.compile("[\U00010000-\U0010ffff]")
# The line breaks of Unicode Standard Annex 14 (CR, BK, NL) beside the line feed.
_BREAK = re.compile("[\r\x0b\x0c\x85\u2028\u2029]")
_UNSEEN = re.compile(f"[{_BASIC}{_BEYOND}\r\x0b\x0c\x85\u2028\u2029]")

# Characters that are quoted from another program's error; some send pages of HTML.
BRIEF = 500


def visible(text: str) -> str:
    """`text` without invisible characters, and with a line feed for every line break."""
    seen = _HIDDEN.sub("", _BREAK.sub("\n", text.replace("\r\n", "\n")))
    return _HIDDEN_BEYOND.sub("", seen) if _IS_BEYOND.search(seen) else seen


def escaped(text: str) -> str:
    """`text` with invisible characters written as `\\u202e`: for names, which must not change."""
    return _UNSEEN.sub(lambda found: _json_escape(ord(found[0])), text)


def brief(text: str, most: int = BRIEF) -> str:
    """The visible words of `text` in one line of at most `most` characters, and " …" if that is not all."""
    words = " ".join(visible(text[: 4 * most]).split())
    return words if len(words) <= most and len(text) <= 4 * most else words[:most] + " …"


def _json_escape(point: int) -> str:
    """A code point as JSON writes it, so that a JSON text remains one."""
    if point > 0xFFFF:
        return f"\\u{0xD7C0 + (point >> 10):04x}\\u{0xDC00 + (point & 0x3FF):04x}"
    return f"\\u{point:04x}"
