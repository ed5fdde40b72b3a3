"""How text from outside stands in a prompt: without what looks like a mark around passages or a turn of the chat. Pure.

The generator quotes whatever it puts into a prompt. The indexer looks whether a passage would be changed by that, once
for all questions, and notes the rules that it looked by (`PLAIN`): a passage with the present ones is used as it is.
"""

import html
import re
import unicodedata

from shared.text import visible

# Raise it with every change of the rules below or of `visible`: passages that were looked at by other rules are quoted
# again, until they are indexed again. `tests/unit/shared/test_quoting.py` notices a change.
PLAIN = 1
# What may be a mark: opening brackets of any kind, a few characters apart, and what stands behind them.
_OPEN = "\\[［﹝【〔〖〘〚⟦⟬❲⁅｢「『"
_ENTITY = r"&(?:#0{0,6}91|#x0{0,6}5b|lsqb|lbrack);?"
_MARK = re.compile(
    rf"(?:[{_OPEN}]|{_ENTITY})(?:[\s\\]{{0,3}}(?:[{_OPEN}]|{_ENTITY}))+(?=([^\]]{{0,24}}))", re.IGNORECASE
)
# Letters of other alphabets that look like those of "passage" and "end".
_ALIKE = str.maketrans("рαаеεѕցԁոρɑԍɡѡℯ", "paaeesgdnpaggwe")
# Tokens with which chat templates begin and end a turn: a server may take them for its own.
_TURN = re.compile(
    r"<(?=[|｜]|/?s>|/?(?:bos|eos|start_of_turn|end_of_turn|start_header_id|end_header_id|system|assistant)>|<\s?/?SYS>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS)\])",
    re.IGNORECASE,
)


def quoted(text: str) -> str:
    """`text` without invisible characters, and with a space in what looks like a mark or a turn of the chat."""
    text = visible(text)
    if "<" in text or "[" in text:
        text = _TURN.sub(lambda begins: f"{begins[0]} ", text)
    return _MARK.sub(_one_bracket, text)


def plainness(text: str) -> int:
    """`PLAIN` if `text` can be quoted as it is, else 0."""
    return PLAIN if quoted(text) == text else 0


def _one_bracket(mark: re.Match[str]) -> str:
    said = unicodedata.normalize("NFKD", html.unescape(mark[1])).casefold().translate(_ALIKE)
    letters = "".join(filter(str.isalnum, said))
    return "[" if letters.startswith(("passage", "end")) else mark[0]
