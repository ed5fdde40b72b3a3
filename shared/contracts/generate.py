"""`generate.v1`: the retriever hands ranked candidates to the generator."""

from typing import ClassVar

from pydantic import Field

from shared.contracts.base import Message, MessagePart
from shared.contracts.request import Request

# Leaves room below the broker's 256 KiB for properties and annotations.
MAX_BODY = 160 * 1024


class Candidate(MessagePart):
    """A passage that may answer the question, with where it stands in which version of which document."""

    passage_id: str
    path: str = Field(description="the document's path in the lake")
    version: int = Field(ge=1, description="the version of the document that holds the passage")
    title: str
    section: str = ""
    page: int | None = None
    start: int = Field(ge=0, description="first character in the document's text")
    end: int = Field(ge=0, description="the character after the last")
    text: str
    tokens: int = Field(ge=0, description="estimated at indexing time")
    plain: int = Field(
        default=0, ge=0, description="the rules by which the indexer found nothing in the text to escape; 0: none"
    )
    score: float = Field(description="reciprocal-rank fusion score; larger is better")


class GenerateAnswer(Message):
    """Answer `request.question` from `candidates`, best first."""

    kind: ClassVar[str] = "generate.v1"

    request: Request
    candidates: tuple[Candidate, ...]
    index_epoch: int | None = Field(
        default=None, description="the collection's epoch before the search; none: unknown, so do not cache"
    )
