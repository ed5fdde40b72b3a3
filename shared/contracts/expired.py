"""`expired.v1`: what is kept of a request that expired; `replay.v1`: have the gateway admit it anew.

A request that merely was late is archived as its ask, without the passages that were found for it. So it can be
replayed from the gateway alone: with the configuration and the caller's rights of that day, and a new deadline.
"""

from typing import ClassVar

from pydantic import Field

from shared.contracts.base import Message
from shared.contracts.request import Request


class ExpiredRequest(Message):
    """Work for `request` was dead-lettered because it was late, and its caller was told."""

    kind: ClassVar[str] = "expired.v1"

    request: Request
    died_on: str = Field(description="the queue on which it was still waiting, or being worked on")
    reason: str = Field(description="the dead-letter reason of its work")
    detail: str = Field(default="", description="the dead-letter description of its work")


class ReplayRequest(Message):
    """Admit `request` anew as its run p{n}, which has an outcome of its own if it is a rerun, and else none."""

    kind: ClassVar[str] = "replay.v1"

    request: Request
