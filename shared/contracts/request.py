"""An admitted request; every later message carries all of it."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field

from shared.contracts.base import AS_SEEN, MessagePart


class Turn(MessagePart):
    """One earlier turn of the conversation."""

    role: Literal["user", "assistant"]
    text: Annotated[str, Field(max_length=8_000), AS_SEEN]


class ReplyTo(MessagePart):
    """Where the outcome goes: a reply queue of the caller, and a session on it."""

    queue: str
    session: str


class Request(MessagePart):
    """An admitted request. Tenant, groups and reply queue come from the queue or the API key, never from the body."""

    request_id: str
    tenant: str
    caller: str
    groups: tuple[str, ...]
    use_case: str
    question: str
    conversation: tuple[Turn, ...] = ()
    accepted_at: AwareDatetime
    answer_by: AwareDatetime = Field(description="the deadline, absolute, UTC")
    correlation_id: str
    reply_to: ReplyTo
    cache_key: str | None = Field(default=None, description="where the answer may be cached; none: nowhere")
    use_case_version: str = Field(default="", description="of the use case that `cache_key` was made with")
    reserved_tokens: int = Field(default=0, ge=0, description="held in the tenant's budget until corrected")
    recorded: bool = Field(
        default=False, description="the ledger was told of it: one that does not know it has lost its memory"
    )
    sentinel: int | None = Field(
        default=None, description="sequence number of its deadline.v1 on `outcomes`, to cancel it by; none: unknown"
    )
    run: str = Field(default="", description="empty, or p{n} in the n-th replay")
    rerun: bool = Field(default=False, description="true for a replay that may send a second outcome")
    ask_digest: str = Field(default="", description="what its id is bound to; see `ask_digest`")
    token: str = Field(default="", description="identifies the ask that was admitted, among those with this id")
    admission: int = Field(default=0, ge=0, description="how often the same ask was admitted before")

    @property
    def branch(self) -> str:
        """The suffix of its message ids: `a{n}` for a later admission, `p{n}` in a replay, else empty.

        The duplicate windows still hold the ids of the first time.
        """
        return "/".join(filter(None, (f"a{self.admission}" if self.admission else "", self.run)))

    @property
    def spending(self) -> str:
        """The name under which its tokens are reserved and corrected: every admission and replay pays for itself."""
        return f"{self.request_id}/{self.branch}" if self.branch else self.request_id

    def without_question(self) -> Self:
        """The request without the question: enough to tell the caller how it ended."""
        return self.replaced(question="", conversation=())

    def ask_only(self) -> Self:
        """The request as it was asked, without what admission added."""
        return self.replaced(
            cache_key=None,
            use_case_version="",
            reserved_tokens=0,
            sentinel=None,
            recorded=False,
            ask_digest="",
            token="",
        )

    def in_admission(self, admission: int, token: str) -> Self:
        """The same request as the ledger's `admission` of its id, opened by the ask with `token`."""
        return self.replaced(admission=admission, token=token)

    def asking(self, question: str, conversation: tuple[Turn, ...]) -> Self:
        """The same with the question that `without_question` left out."""
        return self.replaced(question=question, conversation=conversation)

    def cached_under(self, key: str, use_case_version: str) -> Self:
        """The same with the cache key of its answer."""
        return self.replaced(cache_key=key, use_case_version=use_case_version)

    def reserving(self, tokens: int) -> Self:
        """The same, admitted: with `tokens` reserved for it, and about to be recorded in the ledger."""
        return self.replaced(reserved_tokens=tokens, recorded=True)

    def watched_by(self, sentinel: int) -> Self:
        """The same with the sequence number of its scheduled deadline.v1."""
        return self.replaced(sentinel=sentinel)

    def due(self, answer_by: datetime) -> Self:
        """The same with another deadline."""
        return self.replaced(answer_by=answer_by)

    def is_late(self, now: datetime) -> bool:
        """Whether the deadline has passed."""
        return now >= self.answer_by
