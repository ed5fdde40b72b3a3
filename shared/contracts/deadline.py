"""`deadline.v1`: a sentinel that the gateway schedules for itself before it enqueues the work.

Azure moves an expired message only while a receiver is open on its queue, so a request would get no outcome while a
stage is stopped. The sentinel arrives after the deadline in any case.
"""

from typing import ClassVar

from shared.contracts.base import Message
from shared.contracts.request import Request


class DeadlinePassed(Message):
    """Tell the caller that `request` expired, unless it has its outcome."""

    kind: ClassVar[str] = "deadline.v1"

    request: Request
