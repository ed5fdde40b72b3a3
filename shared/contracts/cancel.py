"""`cancel.v1`: a caller cancels an ask of its own."""

from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from shared.contracts.base import Message
from shared.contracts.ids import MAX_ID

MessageId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID)]


class Cancel(Message):
    """Answer the ask `message_id` with `cancelled`, unless it has its outcome.

    Sent to the caller's own ingress queue, under a message id of its own: under the ask's it would be dropped as a
    duplicate. A request is identified by its caller and message id, so a caller can cancel only its own. The message
    may arrive before the ask. Its only reply is the outcome of the ask.
    """

    kind: ClassVar[str] = "cancel.v1"

    message_id: MessageId = Field(description="of the ask, as its sender set it")
