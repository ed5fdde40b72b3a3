"""Takes what is active out of a model's answer. Pure.

A model can be talked into writing an image whose address carries the conversation away (OWASP LLM01 and LLM05, garak's
`web_injection` probes), a link to a false login, a script, or control sequences of a terminal. So an answer is plain
text that a Markdown renderer may show:

    ![alt](address), [words](address)      alt, words; no image, no link
    <b>, <script>, <img onerror=…>         removed; what else looks like a tag gets ‹ for its <
    https://host/path                      host/path when a passage has this address, else …
    javascript:, data:, mailto:            removed likewise
    someone@host                           stays when a passage has it, else …
    escape sequences                       removed whole

An address is a fact like a number: one that no passage has is not from the documents.
"""

import re
from collections.abc import Iterable

from shared.text import visible

REMOVED = "…"

# ECMA-48: CSI with its parameters, and the strings of OSC, DCS, SOS, PM and APC; 7 and 8 bits wide. What is left of any
# other escape is a letter without effect.
_ESCAPE = re.compile(
    r"(?:\x1b\[[0-?]*|\x9b[0-?]+)[ -/]*[A-Za-z~@`]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x90\x98\x9c-\x9f]*(?:\x07|\x1b\\|\x9c)"
)
# CommonMark 0.31.2, 6.5: an autolink in angle brackets.
_AUTOLINK = re.compile(r"<([a-z][a-z0-9+.-]{1,31}:[^\s<>]*|[^\s<>@]{1,64}@[^\s<>]{1,255})>", re.IGNORECASE)
_COMMENT = re.compile(r"<!--[^<>]*-->")
_TAG = re.compile(r"</?([a-z][a-z0-9:-]{0,40})((?:[\s/\"'][^<>]*)?)>", re.IGNORECASE)
_ELEMENTS = frozenset(
    """
    a abbr address applet area article aside audio b base basefont bdi bdo big blink blockquote body br button canvas
    caption center cite code col colgroup data datalist dd del details dfn dialog dir div dl dt em embed fieldset
    figcaption figure font footer form frame frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html i iframe img input
    ins kbd label legend li link main map mark marquee math menu meta meter nav nobr noscript object ol optgroup option
    output p param picture portal pre progress q rp rt ruby s samp script search section select slot small source span
    strike strong style sub summary sup svg table tbody td template textarea tfoot th thead time title tr track tt u ul
    var video wbr xmp
    """.split()
)
# Where one of these stands, a page has a gap: "30<br>14" is not 3014.
_APART = frozenset("br p div li ul ol dl dt dd tr td th hr h1 h2 h3 h4 h5 h6 table blockquote pre option".split())
_PLACEHOLDER = re.compile(r"<([a-z][^<>]{0,80})>", re.IGNORECASE)
_LOOKS_LIKE_A_TAG = re.compile(r"[<＜﹤](?=[a-z/!?|@#＼／]|｜)", re.IGNORECASE)
# Its words may hold a citation: `[here [1]](address)`.
_LINK = re.compile(r"!?\[((?:[^\[\]\n]|\[[^\[\]\n]*\])*)\]\(([^()\n]*(?:\([^()\n]*\)[^()\n]*)*)\)")
_MARKER = re.compile(r"\W{0,3}\d{1,3}(?:\W{1,3}\d{1,3}){0,9}\W{0,3}")  # a link on a citation is still a citation
_ADDRESS = re.compile(
    r"[a-z0-9+.-]{0,30}://[^\s<>\"|\\]*|//[^\s<>\"|\\/]{1,255}\.[^\s<>\"|\\]*|www\.[^\s<>\"|\\]+", re.IGNORECASE
)
_SCHEME = re.compile(
    # "Hotel:" is no scheme, and "Tel: 1234" no address.
    r"(?:javascript|vbscript|livescript):[^\s<>]*"
    r"|(?<![a-z0-9])(?:(?:mailto|tel|sms|file|blob|view-source|ms-[a-z]{1,20}):(?=[^\s*_`])"
    r"|data:(?=[a-z]{1,20}/|[,;]))[^\s<>]*",
    re.IGNORECASE,
)
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
# Marks of the prompt, which a model was told not to mention.
_PASSAGE_MARK = re.compile(r"\[\[\s{0,3}(?:passage|end)\b[^\[\]\n]{0,300}\]\]", re.IGNORECASE)
_AFTER = ".,;:!?)]}'`*_~"


def plain(reply: str) -> str:
    """`reply` as people see it: without escape sequences and invisible characters."""
    return visible(_ESCAPE.sub("", reply))


def inert(text: str, passages: Iterable[str]) -> str:
    """`text` without anything that a browser, a Markdown renderer or a spreadsheet acts on.

    `passages`: the texts whose addresses may be named.
    """
    known = passages if isinstance(passages, tuple) else tuple(passages)

    def named(address: str, bare: str) -> str:
        # A model may add the https:// that the document leaves out.
        there = any(address in passage or (bare and bare in passage) for passage in known)
        return bare if there else REMOVED

    def words(link: re.Match[str]) -> str:
        if _MARKER.fullmatch(link[1]):
            return f"[{link[1]}]"
        target = link[2].strip().split(maxsplit=1)
        is_image, address = link[0].startswith("!"), target[0].strip("<>") if target else ""
        there = not is_image and "://" in address and any(address in passage for passage in known)
        return f"{link[1]} ({address})" if there and address != link[1].strip() else link[1]

    def bare(found: re.Match[str]) -> str:
        address = found[0].rstrip(_AFTER)
        without = re.sub(r"^(?:[^/]*//)?(?:www\.)*", "", address, flags=re.IGNORECASE)
        return named(address, without) + found[0][len(address) :]

    if "[[" in text:
        text = _PASSAGE_MARK.sub("", text)
    if "<" in text or "＜" in text or "﹤" in text:
        text = _TAG.sub(_element, _COMMENT.sub("", _AUTOLINK.sub(r"\1", text)))
        text = _LOOKS_LIKE_A_TAG.sub("‹", _PLACEHOLDER.sub(r"‹\1›", text))
    if "](" in text or "]:" in text:
        text = _LINK.sub(words, text).replace("](", "] (").replace("]:", "] :")
    if ":" in text:
        text = _SCHEME.sub(REMOVED, text)
    if "//" in text or "www." in text.casefold():
        text = _ADDRESS.sub(bare, text)
    if "@" in text:
        text = _EMAIL.sub(lambda found: named(found[0].rstrip(_AFTER), found[0]), text)
    # A spreadsheet computes what begins like this.
    return text.lstrip("=@ \t\n") if text[:1] in "=@ \t\n" else text


def _element(tag: re.Match[str]) -> str:
    name, attributes = tag[1].casefold(), tag[2].strip(" \t\n/")
    if name in _ELEMENTS and not attributes:
        return " " if name in _APART else ""
    # "a<b and c>d" has no attribute: its < is replaced later, and nothing is lost.
    return "" if "=" in attributes or (tag[0][1] == "/" and name in _ELEMENTS) else tag[0]
