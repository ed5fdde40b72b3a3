"""The pipeline every lane runs, or its last stages: ask ─▶ retrieve ─▶ generate ─▶ answers, with bodies of 1 KB."""

import asyncio
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

QUEUES = ("ask", "retrieve", "generate", "answers")
# What a note looks like, and 1 KB of it.
BODY = json.dumps({"text": "x" * 1000}).encode()


class Stage(NamedTuple):
    """Where messages come from and where they go."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Load:
    """The work of a lane: the number of stages, deliveries at once in each, seconds of work for each delivery."""

    stages: int
    slots: int
    work: float

    @property
    def path(self) -> list[Stage]:
        """The stages in order; the last one always sends to `answers`."""
        return [Stage(*pair) for pair in pairwise(QUEUES)][-self.stages :]

    async def handle(self) -> None:
        """Work on one message, which is waiting."""
        if self.work:
            await asyncio.sleep(self.work)
