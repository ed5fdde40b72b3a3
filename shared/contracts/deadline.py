"""`deadline.v1`: a sentinel that the gateway schedules for itself before it enqueues the work.

Azure moves an expired message only while somebody receives from its queue, so a stopped stage would keep a
request silent for ever. The sentinel comes back after the deadline whatever the stages do.
"""

from typing import ClassVar

from shared.contracts.base import Message
from shared.contracts.request import Request


class DeadlinePassed(Message):
    """Tell the caller that `request` expired, unless it has its outcome."""

    kind: ClassVar[str] = "deadline.v1"

    request: Request
