"""`ragbus replay`: sends captured messages again, or runs their worker's handler in this process."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ops import captured_message, console
from ops.captured_message import CapturedMessage
from ops.connect import bus, callers, redis
from ops.errors import CommandError
from ops.replay_message import Work, replayed, work_of
from ops.target import Target
from shared.contracts.ids import replay_run
from shared.ledger.ledger import KEEP, Ledger
from shared.redis import FailFastRedis, RedisUnavailable

LOCAL = "local"


def check_target(target: Target, to: str, *, allowed: bool) -> None:
    """Raise `CommandError` for a target other than `to`, or outside this machine without `allowed`."""
    if target.is_local:
        if to not in (LOCAL, target.host):
            raise CommandError(f"nothing was sent: the target is {target}, not {to}")
        return
    if to == LOCAL:
        raise CommandError(
            f"nothing was sent: the target is {target}, not this machine; "
            f"unset RAGBUS_SERVICEBUS_… and use `ragbus up`, or add --to {target.host} --yes-send-to-azure"
        )
    if to not in (target.host, target.host.partition(".")[0]) or not allowed:
        raise CommandError(f"nothing was sent: to send to {target.host}, add --to {target.host} --yes-send-to-azure")


def read(files: Sequence[Path]) -> list[CapturedMessage]:
    """The captured messages; raises `CommandError` that names an unreadable file."""
    found = []
    for file in files:
        try:
            found.append(captured_message.read(file.read_text("utf-8")))
        except FileNotFoundError as missing:
            raise CommandError(f"no such file: {file}") from missing
        except (OSError, UnicodeDecodeError) as unreadable:
            raise CommandError(f"{file}: {getattr(unreadable, 'strerror', None) or unreadable}") from unreadable
        except CommandError as problem:
            raise CommandError(f"{file}: {problem}") from problem
    return found


async def resend(target: Target, captured: Sequence[CapturedMessage], *, rerun: bool, queue: str | None) -> None:
    """Send each of `captured` again; raises `CommandError`."""
    known = callers(target)
    async with redis(target) as quick, bus(target) as connected:
        for each in captured:
            work = work_of(each, known, queue)
            if work.ended and not rerun:
                console.err(
                    f"request {work.request_id} has its outcome (expired), so nothing was sent; "
                    "with --rerun the gateway admits it again and sends a second outcome"
                )
                continue
            try:
                entry = await Ledger(quick).find(work.request_id)
            except RedisUnavailable:
                console.err("Redis is unavailable, so it is unknown whether the request has its outcome")
            else:
                known_outcome = (entry.answer or entry.unread) if entry is not None else None
                if known_outcome is not None:
                    console.err(
                        f"request {work.request_id} has its outcome ({known_outcome.outcome}); "
                        + ("the rerun sends a second one" if rerun else "the replay changes nothing without --rerun")
                    )
            number = await next_number(quick, work)
            message = replayed(each, work, number, rerun=rerun, now=datetime.now(UTC))
            await connected.send(message)
            console.out().print(f"{each.place} -> {message.queue} as {message.message_id}", markup=False)


async def next_number(redis: FailFastRedis, work: Work) -> int:
    """The next replay number of a request, so that no duplicate window drops what follows from the replay.

    Counted per request, not per stage: the first replay of an ask also makes a `…/retrieve/p1`.
    """
    key = f"ragbus:replays:{{{work.request_id}}}"
    try:
        counted = int(await redis.run(lambda client: client.incr(key)))
        await redis.run(lambda client: client.expire(key, KEEP))
    except RedisUnavailable:
        # Larger than any counted number, and growing with time.
        return time.time_ns() // 1_000_000
    return max(counted, work.earlier + 1)


def replay(target: Target, captured: Sequence[CapturedMessage], *, rerun: bool, queue: str | None) -> None:
    """Send the `captured` messages again; raises `CommandError`."""
    asyncio.run(resend(target, captured, rerun=rerun, queue=queue))


def inline(target: Target, captured: Sequence[CapturedMessage], *, rerun: bool, queue: str | None) -> None:
    """Run the workers' handlers on the `captured` messages in this process; raises `CommandError`."""
    from ops.inline import run

    known = callers(target)
    for each in captured:
        work = work_of(each, known, queue)
        message = replayed(each, work, work.earlier + 1, rerun=rerun, now=datetime.now(UTC))
        console.err(f"{each.place}: as {message.message_id} ({replay_run(work.earlier + 1)}), in this process")
        asyncio.run(run(target, message))
