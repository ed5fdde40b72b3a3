"""`retrieve.v1`: the gateway asks the retriever for passages."""

from typing import ClassVar

from shared.contracts.base import Message
from shared.contracts.request import Request


class RetrievePassages(Message):
    """Find passages for `request.question`."""

    kind: ClassVar[str] = "retrieve.v1"

    request: Request
