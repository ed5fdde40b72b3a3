"""What people see of a text, and what they do not. Pure; the one owner of that difference.

What a model reads and a person does not can carry instructions past everybody (OWASP LLM01), and what moves a cursor or
turns the direction of writing can show another text than the one that is there. So every text from outside is kept as
it is seen: of documents, questions, conversations, models, and of other programs' errors. In it is nothing of

    Default_Ignorable_Code_Point   joiners, variation selectors, soft hyphens, Hangul fillers, tags
    general category Cf            format characters; bidirectional controls are among them
    C0 and C1 controls             but for the tab; every line break becomes a line feed
    surrogates, private use, noncharacters

What that costs: an emoji that is joined of several falls into its parts, a heart loses its colour, Persian and Indic
words lose the joiners that choose between two shapes of a letter (they stay legible), an icon of a private font is
gone, and so are the few number signs of Arabic and Kaithi that are of category Cf. Nothing is normalised: NFKC would
make 10⁵ into 105.
"""

import re

# Unicode 18.0.0, DerivedCoreProperties.txt and DerivedGeneralCategory.txt. Written down, because the tables of Python
# 3.11 are of 14.0 and a set that depends on the interpreter is no set.
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

# Enough of another program's error to see what it is about; pages of HTML have been seen.
BRIEF = 500


def visible(text: str) -> str:
    """`text` as people see it, with line feeds between its lines."""
    seen = _HIDDEN.sub("", _BREAK.sub("\n", text.replace("\r\n", "\n")))
    return _HIDDEN_BEYOND.sub("", seen) if _IS_BEYOND.search(seen) else seen


def escaped(text: str) -> str:
    """`text` with what people do not see written out, as `\\u202e`: for names, which must stay what they are."""
    return _UNSEEN.sub(lambda found: _code(ord(found[0])), text)


def brief(text: str, most: int = BRIEF) -> str:
    """`text` in one line, without the end of a long one."""
    words = " ".join(visible(text[: 4 * most]).split())
    return words if len(words) <= most and len(text) <= 4 * most else words[:most] + " …"


def _code(point: int) -> str:
    # As JSON has it, so that a JSON text is one still.
    if point > 0xFFFF:
        return f"\\u{0xD7C0 + (point >> 10):04x}\\u{0xDC00 + (point & 0x3FF):04x}"
    return f"\\u{point:04x}"
