"""Selects the passages that go to the generator: no two alike, and no more than fit into a message. Pure."""

import re
from collections.abc import Iterable, Iterator

from shared.contracts.generate import MAX_BODY, Candidate, GenerateAnswer
from shared.errors import Reason, Unprocessable

_GAPS = re.compile(r"\W+")
# `,` between two candidates, and room for the epoch, which may be written later with more digits.
_BETWEEN = 1
_SPARE = 32


def distinct(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """The candidates without word-for-word duplicates of a better one."""
    said: set[str] = set()
    for candidate in candidates:
        words = _GAPS.sub(" ", candidate.text.casefold()).strip()
        if words not in said:
            said.add(words)
            yield candidate


def fitting(task: GenerateAnswer, limit: int = MAX_BODY) -> GenerateAnswer:
    """`task` with the candidates that fit into a body of `limit` bytes, the best first; all of them if they can.

    Raises `Unprocessable` with `PayloadTooLarge` when there are candidates and none fits.
    """
    empty = GenerateAnswer(request=task.request, candidates=(), index_epoch=task.index_epoch)
    room = limit - _SPARE - len(empty.encode())
    kept: list[Candidate] = []
    for candidate in task.candidates:
        size = len(candidate.model_dump_json(exclude_none=True).encode()) + _BETWEEN
        # A large one is left out alone; smaller ones after it may still fit.
        if size <= room:
            kept.append(candidate)
            room -= size
    if task.candidates and not kept:
        raise Unprocessable(
            Reason.PAYLOAD_TOO_LARGE,
            f"question and conversation leave no room for a passage in {limit // 1024} KiB; shorten the conversation",
        )
    return GenerateAnswer(request=task.request, candidates=tuple(kept), index_epoch=task.index_epoch)
