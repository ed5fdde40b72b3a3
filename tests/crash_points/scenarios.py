"""What is asked of the system while workers die: each kind of work once, and how it ends when nothing is lost.

A scenario first prepares what it needs, then acts; only the effects after that are boundaries to die at.
"""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from tests.crash_points.ports import DEAD_LETTER
from tests.crash_points.system import AGAIN, System, until

Step = Callable[[System, str], Coroutine[Any, Any, None]]


async def _nothing(system: System, mark: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of work."""

    name: str
    services: tuple[str, ...]
    """Whose effects in it are boundaries to die at; those of the others are seen in other scenarios."""
    act: Step
    end: Step
    """Waits for the end."""
    prepare: Step = _nothing
    ends: frozenset[str] = frozenset()
    """The outcomes that it may have; empty: it has none."""
    slowly: bool = False
    """Whether it takes so long that its locks are renewed, also on a quick machine."""
    begins_as: str = ""
    """A scenario whose effects it has too: they are died at there."""
    lingers: float = 5.0
    """Seconds after its end in which the workers may still be busy with it; a guard, when a point is not reached."""


# ---------------------------------------------------------------------- questions


async def _told(system: System, mark: str) -> None:
    await until(lambda: system.told.replies(mark))


def _asking(**how: str | float | bytes) -> Step:
    async def ask(system: System, mark: str) -> None:
        await system.ask(mark, **how)  # type: ignore[arg-type]

    return ask


async def _cache_filled(system: System, mark: str) -> None:
    first = f"{mark[:-1]}{'0' if mark[-1] != '0' else '1'}"
    await system.ask(first, question="When is the office closed?", cache="use")
    await _told(system, first)
    await asyncio.sleep(0.5)  # it is cached a moment after; if it is too early, the cache is filled by this one


async def _answered_before(system: System, mark: str) -> None:
    await system.ask(mark)
    await _told(system, mark)
    await asyncio.sleep(1.5)  # the duplicate window of this stack's ingress queue


async def _ask_again(system: System, mark: str) -> None:
    await system.ask(mark, session=AGAIN)


async def _sentinel(system: System, mark: str) -> None:
    await system.let_pass(mark)


async def _told_again(system: System, mark: str) -> None:
    await until(lambda: system.told.replies(mark, AGAIN))


async def _by_http(system: System, mark: str) -> None:
    await system.ask_by_http(mark)


async def _stuck(system: System, mark: str) -> None:
    await system.ask(mark, use_case="stuck")
    await system.in_the_model(mark)


async def _cancel(system: System, mark: str) -> None:
    await system.post({"message_id": mark}, subject="cancel.v1")


async def _in_a_model_that_takes_long(system: System, mark: str) -> None:
    await system.ask(mark, use_case="leaving")
    await system.in_the_model(mark)


async def _leave(system: System, mark: str) -> None:
    await system.leave("generator")


# ---------------------------------------------------------------------- documents


def _page(mark: str, colour: str) -> str:
    return f"# {mark}\n\nThe colour of {mark} is {colour}.\n"


def _writing(colour: str) -> Step:
    async def write(system: System, mark: str) -> None:
        part = system.stack.folder.path / f"{mark}.part"
        part.write_text(_page(mark, colour))
        part.replace(system.stack.lake / f"{mark}.md")

    return write


def _indexed(colour: str) -> Step:
    async def indexed(system: System, mark: str) -> None:
        wanted = hashlib.sha256(_page(mark, colour).encode()).hexdigest()

        def is_so() -> bool:
            entry = system.documents.get(f"{mark}.md")
            return entry is not None and entry.is_live and entry.finished and entry.content_hash == wanted

        await until(is_so)

    return indexed


async def _there(system: System, mark: str) -> None:
    await _writing("green")(system, mark)
    await _indexed("green")(system, mark)


async def _remove(system: System, mark: str) -> None:
    (system.stack.lake / f"{mark}.md").unlink()


async def _removed(system: System, mark: str) -> None:
    def is_so() -> bool:
        entry = system.documents.get(f"{mark}.md")
        return entry is not None and not entry.is_live and entry.finished

    await until(is_so)


# ---------------------------------------------------------------------- what cannot be read


def _garbage(queue: str) -> Step:
    async def send(system: System, mark: str) -> None:
        await system.post(b"{", queue=queue, subject=f"{queue}.v1", message_id=mark)

    return send


async def _dead_lettered(system: System, mark: str) -> None:
    await until(lambda: any(DEAD_LETTER in seen.effect.name for seen in system.folder.seen(mark)))


ANSWERED = frozenset({"answered"})
SCENARIOS = (
    Scenario("question", ("gateway", "retriever", "generator"), _asking(), _told, ends=ANSWERED),
    Scenario(
        "cached",
        ("gateway",),
        _asking(question="When is the office closed?", cache="use"),
        _told,
        prepare=_cache_filled,
        ends=frozenset({"answered", "no_answer"}),
    ),
    Scenario("repeat", ("gateway",), _ask_again, _told_again, prepare=_answered_before, ends=ANSWERED),
    Scenario("refused", ("gateway",), _asking(use_case="nobody-has-this"), _told, ends=frozenset({"refused"})),
    Scenario("no-answer", ("retriever",), _asking(use_case="empty"), _told, ends=frozenset({"no_answer"})),
    Scenario(
        "slow",
        ("generator",),
        _asking(use_case="slow"),
        _told,
        ends=ANSWERED,
        slowly=True,
        begins_as="question",
    ),
    Scenario("cancelled", ("gateway", "generator"), _cancel, _told, prepare=_stuck, ends=frozenset({"cancelled"})),
    Scenario(
        "expired",
        ("gateway", "generator"),
        _asking(use_case="busy", life=12.0),
        _told,
        # Where crashes have used up its time before it is let in, it is refused as `Overloaded`.
        ends=frozenset({"expired", "refused"}),
        begins_as="question",
        lingers=15.0,
    ),
    Scenario(
        "handed-back", ("generator",), _leave, _told, prepare=_in_a_model_that_takes_long, ends=ANSWERED, lingers=15.0
    ),
    Scenario("http", ("gateway",), _by_http, _nothing, ends=ANSWERED),
    Scenario(
        "unreadable-ask",
        ("gateway",),
        _asking(raw=b"{", session=AGAIN),
        _told_again,
        ends=frozenset({"failed"}),
        lingers=10.0,
    ),
    Scenario("overdue", ("gateway",), _sentinel, _told, ends=frozenset({"expired"})),
    Scenario("unreadable-retrieve", ("retriever",), _garbage("retrieve"), _dead_lettered),
    Scenario("unreadable-generate", ("generator",), _garbage("generate"), _dead_lettered),
    Scenario("unreadable-event", ("indexer",), _garbage("blob-events"), _dead_lettered),
    Scenario("document", ("indexer",), _writing("green"), _indexed("green")),
    Scenario("edited", ("indexer",), _writing("blue"), _indexed("blue"), prepare=_there),
    Scenario("removed", ("indexer",), _remove, _removed, prepare=_there),
)
