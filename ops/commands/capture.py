"""`ragbus capture`: writes messages to files; they stay in their queue."""

import os
from datetime import UTC, datetime
from pathlib import Path

from ops import captured_message, console, message_filter
from ops.captured_message import CapturedMessage
from ops.messages import Place, Selection, each_of
from ops.target import Target
from shared.bus.port import Received


def capture(
    target: Target,
    place: Place,
    folder: Path,
    *,
    request: str | None,
    condition: str | None,
    after: int,
    limit: int | None,
) -> int:
    """Write one file per message into `folder`; returns how many."""
    matches, count = message_filter.parse(condition), 0

    def keep(message: Received) -> bool:
        return matches(message) and (request is None or message_filter.belongs_to(message, request))

    def write(message: Received) -> None:
        nonlocal count
        at = folder / captured_message.file_name(message)
        _write_private(at, captured_message.write(CapturedMessage(message, target.host, datetime.now(UTC), place.dead)))
        console.out().print(str(at), markup=False)
        count += 1

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    left = each_of(target, place, Selection(keep, after, limit), write)
    console.err(f"{console.count(count, 'message')} of {place} captured; the queue is unchanged")
    if left:
        console.err(str(left))
    return count


def _write_private(file: Path, text: str) -> None:
    """Write a file that only its owner may read, because it contains what people asked."""
    new = file.with_name(f".{file.name}.part")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as opened:
        opened.write(text)
    new.replace(file)
