"""What the model says to a conversation: quotations from the last user message's passages, or the sentinel."""

from collections.abc import Sequence

from local.llm import passages, tokens
from local.llm.answer import answer


def question(users: Sequence[str]) -> str:
    """What the last user message asks."""
    return passages.read(users[-1]).question if users else ""


def reply(system: Sequence[str], users: Sequence[str]) -> str:
    """Answer the last user message; the one before it helps when the question is elliptic."""
    asked = passages.read(users[-1] if users else "")
    said = answer(asked.question, asked.passages, before=question(users[:-1]))
    return said if said is not None else passages.sentinel(list(system))


def shortened(text: str, limit: int) -> tuple[str, str]:
    """The text within its token limit, and OpenAI's word for why it ends there."""
    kept = tokens.cut(text, limit)
    return kept, "stop" if kept == text else "length"
