"""`ask.v1`: an upstream app's question. The public door; everything but these fields is ignored."""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from shared.contracts.base import AS_SEEN, Message
from shared.contracts.ids import digest
from shared.contracts.request import Turn

Question = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=8_000), AS_SEEN]


class Ask(Message):
    """A question for one use case.

    The rest of the contract is in native properties: `message_id` (idempotency key), `correlation_id`,
    `reply_to`, `reply_to_session_id`, `time_to_live` (the deadline).
    """

    kind: ClassVar[str] = "ask.v1"

    question: Question
    use_case: str | None = Field(default=None, max_length=64, description="optional for a caller with one use case")
    conversation: tuple[Turn, ...] = Field(default=(), max_length=20)
    cache: Literal["use", "refresh"] = Field(default="use", description="refresh: do not read the answer cache")


def ask_digest(ask: Ask, use_case: str, groups: Iterable[str]) -> str:
    """What a message id is bound to: everything that can change the answer, or who may read it.

    `use_case`: the resolved one; `groups`: the caller's. Tenant and caller are in the request id; where the outcome
    goes, and by when, changes neither. A contract test requires that each field of `Ask` and `Turn` is listed as
    included or excluded.
    """
    turns = [part for turn in ask.conversation for part in (turn.role, turn.text)]
    readers = sorted(set(groups))
    # The counts separate turns from groups.
    return digest(use_case, ask.question, ask.cache, str(len(turns)), *turns, str(len(readers)), *readers)
