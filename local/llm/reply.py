"""The model's reply to a conversation: quotations from the passages of the last user message, or the sentinel."""

from collections.abc import Sequence

from local.llm import passages, tokens
from local.llm.answer import Similarities, answer


def question(users: Sequence[str]) -> str:
    """The question of the last user message."""
    return passages.read(users[-1]).question if users else ""


def reply(system: Sequence[str], users: Sequence[str], alike: Similarities) -> str:
    """The reply to the last user message; the message before it helps when the question is elliptic."""
    asked = passages.read(users[-1] if users else "")
    said = answer(asked.question, asked.passages, alike, before=question(users[:-1]))
    return said if said is not None else passages.sentinel(list(system))


def shortened(text: str, limit: int) -> tuple[str, str]:
    """`text` cut to `limit` tokens, and OpenAI's `finish_reason`."""
    kept = tokens.cut(text, limit)
    return kept, "stop" if kept == text else "length"
