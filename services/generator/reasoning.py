"""Reasoning that a model writes into its answer, between tags: it is not for the caller. Pure.

Reasoning models of servers without a reasoning parser write `<think>…</think>` before the answer (DeepSeek-R1, Qwen);
where the chat template opens the block, the answer has only its end. Some write more blocks later. A tag in quotation
marks or backticks is text about tags, and so are two tags with no more than a word between them.
"""

import re
from collections.abc import Iterator

from shared.text import visible

_NAMES = r"think|thinking|thought|thoughts|reasoning|reflection|seed:think|scratchpad"
# Bounded: a model may write thousands of spaces after a "<", and two open runs of them take quadratic time.
_TAG = re.compile(
    rf"<\s{{0,8}}(?P<close>/?)\s{{0,8}}(?:{_NAMES})\b[^<>\n]*>|\[(?P<bracket_close>/?)THINK\]", re.IGNORECASE
)
# gpt-oss: https://cookbook.openai.com/articles/openai-harmony
_FINAL = re.compile(r"<\|channel\|>\s*final\s*(?:<\|constrain\|>[^<]*)?<\|message\|>", re.IGNORECASE)
_HARMONY = re.compile(r"<\|(?:channel|start|end|message|return|call)\|>", re.IGNORECASE)
_QUOTES = "`\"'“”‘’«»"
_ONE_WORD = re.compile(r"\W{0,16}\w{0,7}\W{0,16}")


def without_reasoning(text: str) -> str:
    """`text` without the model's reasoning; empty when nothing else was written."""
    if "<" not in text and "[" not in text:
        return text
    if _HARMONY.search(text):
        text = _final_message(text)
    if not _TAG.search(visible(text)):
        return text
    text = visible(text)  # an invisible character in a tag would hide it from us, and is removed later
    kept, position, opened = "", 0, None
    for tag in _tags(text):
        closes = bool(tag["close"] or tag["bracket_close"])
        if opened is None and not closes:
            kept += text[position : tag.start()]
            opened, position = tag, tag.end()
        elif closes and opened is None:
            # Its beginning was in the prompt, or it closes an outer block: what is before it is reasoning.
            kept, position = "", tag.end()
        elif closes and opened is not None:
            if kept.strip() and _ONE_WORD.fullmatch(text[opened.end() : tag.start()]):
                kept += text[opened.start() : tag.end()]
            opened, position = None, tag.end()
    if opened is None:
        kept += text[position:]
    elif kept.strip() and not kept.endswith("\n"):
        kept += text[opened.start() :]  # a word about a tag, in the middle of a line, and nothing closes it
    return kept.strip() if kept != text else text


def _tags(text: str) -> Iterator[re.Match[str]]:
    """The tags that are not quoted."""
    for tag in _TAG.finditer(text):
        before, after = text[max(0, tag.start() - 1) : tag.start()], text[tag.end() : tag.end() + 1]
        if not (before and before in _QUOTES and after and after in _QUOTES):
            yield tag


def _final_message(text: str) -> str:
    """The final message of a Harmony transcript; empty when it has none."""
    messages = _FINAL.split(text)
    return _HARMONY.split(messages[-1])[0].strip() if len(messages) > 1 else ""
