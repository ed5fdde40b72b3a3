"""What a model writes around its answer: its reasoning, special tokens, calls of tools. Not for the caller. Pure.

Servers without a reasoning parser for their model pass on what the model writes (`_OPENS`, `_CLOSES`):

    <think>, <thinking>, <mm:think>, <seed:think> …      DeepSeek-R1, Qwen, MiniMax, Seed; Hunyuan and R1-Zero put the
                                                        answer into <answer>, Ernie into <response>
    [THINK], ◁think▷, <|inner_prefix|>                  Magistral, Kimi, Apertus
    <|begin_of_thought|>, then <|begin_of_solution|>    OpenThinker, Sky-T1
    <|channel>thought … <channel|>                      Gemma 4 (lmstudio-ai/lmstudio-bug-tracker#2013)
    <|START_THINKING|>, then <|START_RESPONSE|>         Command A (smg-project/smg#306)
    <|channel|>analysis<|message|>, then …final…        gpt-oss (https://cookbook.openai.com/articles/openai-harmony);
                                                        without special tokens `analysis…assistantfinal…`

Where the chat template opens the block, the answer has only its end. Some write more blocks later. A tag in quotation
marks or backticks is text about tags, and so are two tags with no more than a word between them.
"""

import re
from collections.abc import Iterator

from shared.text import visible

_NAMES = r"(?:\w+:)?(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad)"
# Bounded: a model may write thousands of spaces after a "<", and two open runs of them take quadratic time.
_OPENS = (
    rf"<\s{{0,8}}{_NAMES}\b[^<>\n]*>|\[THINK\]|◁think▷|<\|inner_prefix\|>|<\|begin_of_thought\|>|<\|START_THINKING\|>"
    r"|<\|channel>\s?thought\b"
    r"|(?:<\|start\|>\s?assistant\s?)?<\|channel\|>\s?(?:analysis|commentary)\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"|\A\s*analysis<\|message\|>"
)
_CLOSES = (
    rf"<\s{{0,8}}/\s{{0,8}}{_NAMES}\b[^<>\n]*>|\[/THINK\]|◁/think▷|<\|inner_suffix\|>|<\|end_of_thought\|>|<\|END_THINKING\|>"
    r"|<channel\|>"
)
_TAG = re.compile(rf"(?P<close>{_CLOSES})|{_OPENS}", re.IGNORECASE)
_FINAL = re.compile(
    r"(?:<\|start\|>\s?assistant\s?)?<\|channel\|>\s?final\s?(?:<\|constrain\|>[^<]*)?<\|message\|>", re.IGNORECASE
)
_HARMONY = re.compile(r"<\|(?:channel|start|end|message|return|call)\|>", re.IGNORECASE)
_BARE_HARMONY = re.compile(r"\s*analysis(?:.*assistantfinal|[A-Z].*\Z)", re.DOTALL)
# What may stand before and after an answer.
_BEGINS = re.compile(
    r"\A\s*(?:<\|begin_of_solution\|>|<\|START_(?:RESPONSE|TEXT)\|>|(?:<\|start\|>\s*assistant\s*)?<\|message\|>)"
)
_ENDS = re.compile(
    r"(?<![ \t])(?:<\|(?:endoftext|im_end|eot_id|eom_id|end_of_text|end_of_turn|end_of_solution|end|return|eos|eot"
    r"|END_RESPONSE|END_TEXT|END_OF_TURN_TOKEN)\|>|</s>|<eos>|<end_of_turn>|<turn\|>|<｜end▁of▁sentence｜>)\s*"
)
_WRAPPED = re.compile(
    r"\s*<(answer|response)>(?P<inside>(?:(?!</?\1>).)*)(?P<end></\1>\s*)?", re.IGNORECASE | re.DOTALL
)
# Nothing but calls of tools: Hermes and Qwen, Mistral, Llama, Gemma 4, Kimi, Command A, DeepSeek.
_TOOL_CALLS = re.compile(
    r"\s*(?:<(?P<tag>(?:\w+:)?(?:tool|function)_calls?)>(?:.*</(?P=tag)>\s*|\s*[\[{<](?:(?!</(?P=tag)>).)*)"
    r"|<function=[\w.:-]+>.*|\[TOOL_CALLS\]\s*(?:[\w.:-]+\s*)?[\[{].*"
    r"|<\|(?:python_tag|tool_call|tool_calls_section_begin|tool_call_begin|START_ACTION)\|?>(?![ ,.]).*"
    r"|<｜tool▁calls▁begin｜>.*)",
    re.DOTALL,
)
_HARMONY_CALL = re.compile(r"<\|channel\|>\s*commentary\s+to=", re.IGNORECASE)
_QUOTES = "`\"'“”‘’«»"
_ONE_WORD = re.compile(r"\W{0,16}\w{0,7}\W{0,16}")
_SENTENCE_ENDS = "\n.!?…])>"


def without_reasoning(text: str) -> str:
    """`text` without the model's reasoning and special tokens; empty when nothing else was written."""
    if "<" not in text and "[" not in text and "◁" not in text and not text.lstrip().startswith("analysis"):
        return text
    seen = visible(text)  # an invisible character in a tag would hide it from us, and is removed later
    spoken = _without_blocks(_final_message(seen))
    answer = _BEGINS.sub("", _without_ends(spoken))
    wrapped = _WRAPPED.fullmatch(answer)
    if wrapped and (wrapped["end"] or spoken != seen):
        answer = wrapped["inside"]
    return text if answer.strip() == seen.strip() else answer.strip()


def without_special_tokens(text: str) -> str:
    """The visible characters of `text`, without the tokens that end an answer."""
    return _without_ends(visible(text))


def calls_tools(text: str, written: str) -> bool:
    """Whether the model wrote a call of a tool in the place of an answer; `text`: `written` without its reasoning."""
    return bool(_TOOL_CALLS.fullmatch(text) if text.strip() else _HARMONY_CALL.search(written))


def _without_blocks(text: str) -> str:
    kept, position, opened = "", 0, None
    for tag in _tags(text):
        closes = bool(tag["close"])
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
    elif kept.strip() and kept[-1] not in _SENTENCE_ENDS:
        kept += text[opened.start() :]  # a word about a tag, in the middle of a sentence, and nothing closes it
    return kept


def _without_ends(text: str) -> str:
    text = text.strip()
    end = len(text)
    # From the end, because a model may repeat a token a thousand times.
    while (last := text.rfind("<", 0, end)) >= 0 and _ENDS.fullmatch(text, last, end):
        end = last
    return text[:end].strip()


def _tags(text: str) -> Iterator[re.Match[str]]:
    """The tags that are not quoted."""
    for tag in _TAG.finditer(text):
        if not _is_between(text, tag, _QUOTES):
            yield tag


def _is_between(text: str, found: re.Match[str], characters: str) -> bool:
    before, after = text[max(0, found.start() - 1) : found.start()], text[found.end() : found.end() + 1]
    return bool(before and before in characters and after and after in characters)


def _final_message(text: str) -> str:
    """The final message of a Harmony transcript that has one; else `text`."""
    finals = [each for each in _FINAL.finditer(text) if not _is_between(text, each, _QUOTES + " ")]
    if finals:
        return _HARMONY.split(text[finals[-1].end() :])[0]
    bare = _BARE_HARMONY.match(text)
    return text[bare.end() :] if bare else text
