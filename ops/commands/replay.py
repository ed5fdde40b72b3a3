"""`ragbus replay`: captured messages sent again, or run through their worker in this process."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ops import captured_message, console
from ops.captured_message import CapturedMessage
from ops.connect import bus, callers, redis
from ops.errors import CommandError
from ops.replay_message import Work, replayed, work_of
from ops.target import Target
from shared.contracts.ids import replay_run
from shared.ledger.ledger import KEEP, Ledger
from shared.redis import FailFastRedis, RedisUnavailable

if TYPE_CHECKING:
    from shared.ledger.ledger import Entry

LOCAL = "local"


def check_target(target: Target, to: str, *, allowed: bool) -> None:
    """Refuse to send anywhere but here, unless it was said twice; raises `CommandError`."""
    if target.is_local:
        if to not in (LOCAL, target.host):
            raise CommandError(f"the target is {target}, not {to}")
        return
    if to == LOCAL:
        raise CommandError(
            f"the target is {target}, which is not on this machine: unset its RAGBUS_SERVICEBUS_… and use `ragbus up`, "
            f"or mean it with --to {target.host} --yes-send-to-azure"
        )
    if to not in (target.host, target.host.partition(".")[0]) or not allowed:
        raise CommandError(f"nothing was sent: to send to {target.host} say --to {target.host} --yes-send-to-azure")


def read(files: Sequence[Path]) -> list[CapturedMessage]:
    """The captured messages; raises `CommandError` naming the file that cannot be read."""
    found = []
    for file in files:
        try:
            found.append(captured_message.read(file.read_text("utf-8")))
        except FileNotFoundError as missing:
            raise CommandError(f"no such file: {file}") from missing
        except (OSError, UnicodeDecodeError) as unreadable:
            raise CommandError(f"{file}: {unreadable}") from unreadable
        except CommandError as problem:
            raise CommandError(f"{file}: {problem}") from problem
    return found


async def resend(target: Target, captured: Sequence[CapturedMessage], *, rerun: bool, queue: str | None) -> None:
    """Send each of `captured` again."""
    known = callers(target)
    async with redis(target) as quick, bus(target) as connected:
        for each in captured:
            work = work_of(each, known, queue)
            if work.ended and not rerun:
                console.err(
                    f"request {work.request_id} has its outcome (expired), so nothing was sent: "
                    "--rerun has the gateway admit it anew, and a second outcome is sent"
                )
                continue
            await _tell_what_is_known(Ledger(quick), work, rerun=rerun)
            number = await next_number(quick, work)
            message = replayed(each, work, number, rerun=rerun, now=datetime.now(UTC))
            await connected.send(message)
            console.out().print(f"{each.place} -> {message.queue} as {message.message_id}", markup=False)


async def next_number(redis: FailFastRedis, work: Work) -> int:
    """One more than every replay of this request before, so that no duplicate window swallows what comes of it.

    Of the request, not of the stage: the first replay of an ask makes a `…/retrieve/p1` too.
    """
    key = f"ragbus:replays:{{{work.request_id}}}"
    try:
        counted = int(await redis.run(lambda client: client.incr(key)))
        await redis.run(lambda client: client.expire(key, KEEP))
    except RedisUnavailable:
        # Larger than any counted number, and than that of a second ago.
        return time.time_ns() // 1_000_000
    return max(counted, work.earlier + 1)


async def _tell_what_is_known(ledger: Ledger, work: Work, *, rerun: bool) -> None:
    try:
        entry = await ledger.find(work.request_id)
    except RedisUnavailable:
        console.err("Redis is away, so it is not known whether the request has its outcome already")
        return
    if entry is not None and (entry.answer is not None or entry.unread is not None):
        console.err(_told(entry, work, rerun=rerun))


def _told(entry: "Entry", work: Work, *, rerun: bool) -> str:
    answer = entry.answer or entry.unread
    outcome = answer.outcome if answer else "?"
    if rerun:
        return f"request {work.request_id} has its outcome ({outcome}); as a rerun it gets a second one"
    return (
        f"request {work.request_id} has its outcome ({outcome}): the replay will change nothing; "
        "--rerun works it out again and sends a second outcome"
    )


def replay(target: Target, captured: Sequence[CapturedMessage], *, rerun: bool, queue: str | None) -> None:
    """Send the `captured` messages again."""
    asyncio.run(resend(target, captured, rerun=rerun, queue=queue))


def inline(target: Target, captured: Sequence[CapturedMessage], *, rerun: bool, queue: str | None) -> None:
    """Run the `captured` messages through their workers here; send nothing."""
    from ops.inline import run

    known = callers(target)
    for each in captured:
        work = work_of(each, known, queue)
        message = replayed(each, work, work.earlier + 1, rerun=rerun, now=datetime.now(UTC))
        console.err(f"{each.place}: as {message.message_id} ({replay_run(work.earlier + 1)}), in this process")
        asyncio.run(run(target, message))
