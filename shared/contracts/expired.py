"""`expired.v1`: the archived ask of an expired request; `replay.v1`: admit it again.

A request that was only late is archived as its ask, without the passages that were found. So it is replayed from the
gateway: with the configuration and the caller's rights at that time, and a new deadline.
"""

from typing import ClassVar

from pydantic import Field

from shared.contracts.base import Message
from shared.contracts.request import Request


class ExpiredRequest(Message):
    """Work for `request` was dead-lettered because it was late, and its caller was told."""

    kind: ClassVar[str] = "expired.v1"

    request: Request
    died_on: str = Field(description="the queue on which it waited or was worked on")
    reason: str = Field(description="the dead-letter reason of its work")
    detail: str = Field(default="", description="the dead-letter description of its work")


class ReplayRequest(Message):
    """Admit `request` again as its run p{n}, which has an outcome of its own only if it is a rerun."""

    kind: ClassVar[str] = "replay.v1"

    request: Request
