"""A log of the calls: what was asked, and what was charged."""

import hashlib
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

KEPT = 20_000


@dataclass
class Call:
    """One call; `status` is None until it is answered."""

    id: str
    deployment: str
    kind: str
    at: float
    status: int | None = None
    stream: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_sha256: str = ""
    question: str = ""
    fault: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    """The body that arrived, without messages or inputs."""
    chunks: int = 0
    """How many pieces were sent: the events of a stream, or the body."""
    stopped: bool = False
    """Whether the caller hung up before the answer's end."""


class Calls:
    """The last calls, oldest first."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque(maxlen=KEPT)
        self._seen = 0

    def open(self, kind: str, deployment: str) -> Call:
        """Log a new call; the caller of this fills in the rest."""
        self._seen += 1
        call = Call(f"call-{self._seen}", deployment, kind, time.time())
        self._calls.append(call)
        return call

    def clear(self) -> None:
        """Forget all calls; ids go on."""
        self._calls.clear()

    def as_json(self) -> list[dict[str, Any]]:
        """All calls."""
        return [asdict(call) for call in self._calls]


def digest(text: str) -> str:
    """A hash that is equal for equal prompts."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
