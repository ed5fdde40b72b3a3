"""`ragbus demo`: runs the whole system on this machine and checks every step.

start ─▶ index the handbook ─▶ ask ─▶ ask again (from the cache) ─▶ edit ─▶ ask again (the new answer) ─▶ ask the
unanswerable
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from local.stack import Stack, StackError, from_environment
from local.stack.signals import run
from local.stack.stack import EXAMPLE
from local.stack.usage import resident
from ops import answers, console, demo_script
from ops.errors import CommandError
from ops.target import Target, read_stack
from ops.upstream import Answer, NoReply, Upstream

if TYPE_CHECKING:
    from shared.vectors.port import Document

Show = Callable[[int], None]
INDEX_WITHIN = 180.0
REINDEX_WITHIN = 60.0
_LOOK = 0.1
_MEGABYTE = 1_000_000


class Stuck(CommandError):
    """A step did not finish, so the following ones cannot run."""


def demo(folder: Path, *, reset: bool) -> int:
    """Returns 0 when every check passed, else 1; 130 when it was stopped."""
    if os.environ.get("RAGBUS_CONFIG"):
        console.err("note: the demonstration uses the example and ignores RAGBUS_CONFIG")
    performance = Demo(folder, reset=reset)
    try:
        finished = run(performance.play())
    except (StackError, CommandError, NoReply) as failure:
        performance.failures.append(str(failure))
        finished = True
    if finished is None:
        console.err("stopped; nothing is running")
        return 130
    return performance.verdict()


class Demo:
    """One run, and its failures."""

    def __init__(self, folder: Path, *, reset: bool) -> None:
        self.failures: list[str] = []
        self._began = time.monotonic()
        self._checks = 0
        self._first_answer: float | None = None
        self._memory = ""
        self._documents = 0
        self._questions = demo_script.read(EXAMPLE / "questions.yaml")
        # Our own stand-ins, because the checks depend on the model; any Redis will do.
        redis = {name: url for name, url in from_environment().items() if name == "redis"}
        self._stack = Stack(
            folder,
            ports="free",
            reset=reset,
            instead=redis,
            progress=lambda name, seconds: console.out().print(f"  {name:<10} {seconds:5.1f} s", style="dim"),
        )

    async def play(self) -> bool:
        """Run all steps, in order."""
        self._title("Start: nine processes on this machine")

        def load() -> None:
            """Import slow modules while the processes start."""
            import azure.servicebus.aio  # noqa: F401

            import ops.registry  # noqa: F401

        loading = asyncio.create_task(asyncio.to_thread(load))
        async with self._stack as stack:
            await loading
            console.out().print(f"  ready after [bold]{self._elapsed():.1f} s[/bold]")
            await stack.during(self._steps())
        return True

    def verdict(self) -> int:
        """Print the result; returns the exit status."""
        out = console.out()
        out.print()
        for failure in self.failures:
            out.print(f"[red]failed[/red] {console.harmless(failure)}", markup=True)
        if not self.failures:
            out.print(f"[green]all {self._checks} checks passed[/green]")
        if self._first_answer is not None:
            first = f"first cited answer {self._first_answer:.1f} s after the start"
            out.print(f"{first} · {self._documents} documents{self._memory}")
        return 1 if self.failures else 0

    # -- the steps

    async def _steps(self) -> None:
        from ops.connect import service_bus

        async with service_bus(self._target()) as bus, Upstream(bus) as app:
            await self._index()
            await self._ask(app)
            await self._change(app)
            await self._ask_the_unanswerable(app)
        pids = [child.pid for child in self._stack.children.values()]
        self._memory = f" · {resident(pids) / _MEGABYTE:.0f} MB resident in {len(pids)} processes"

    async def _index(self) -> None:
        files = documents_in(self._stack.lake)
        self._title(f"Index: {len(files)} documents of the handbook, announced by blob events")
        began = time.monotonic()
        async with _progress(len(files)) as show:
            while len(live := await self._live(files)) < len(files):
                show(len(live))
                if time.monotonic() - began > INDEX_WITHIN:
                    raise Stuck(f"not indexed after {INDEX_WITHIN:.0f} s: {', '.join(sorted(files - live.keys()))}")
                await asyncio.sleep(_LOOK)
            show(len(live))
        self._documents = len(live)
        passages = sum(document.passages for document in live.values())
        took = f"indexed {time.monotonic() - began:.1f} s after everything was ready (indexing began during the start)"
        console.out().print(f"  {len(live)} documents, {passages} passages, {took}")

    async def _ask(self, app: Upstream) -> None:
        self._title("Ask: an upstream app sends to its queue with the plain azure-servicebus SDK")
        answerable = [question for question in self._questions if question.answerable]
        for question in answerable:
            answer = await self._put(app, question.text)
            self._check(demo_script.faults(question, answer, cache="miss"))
            if self._first_answer is None and answer.get("citations"):
                self._first_answer = self._elapsed()
        self._title("Ask the first question again: the cache answers, and no model is paid")
        self._check(demo_script.faults(answerable[0], await self._put(app, answerable[0].text), cache="hit"))

    async def _change(self, app: Upstream) -> None:
        for question in self._questions:
            if question.edit is None:
                continue
            await self._edit(question.edit)
            answer = await self._put(app, question.text)
            self._check(demo_script.faults(question, answer, cache="!hit", expect=question.edit.expect_after))

    async def _edit(self, edit: demo_script.Edit) -> None:
        self._title(f"Edit {edit.path}: cached answers that used it are evicted")
        file = self._stack.lake / edit.path
        before = (await self._live({edit.path}))[edit.path].version
        console.out().print(f"  - {edit.replace}\n  + {edit.by}", markup=False)
        try:
            file.write_text(demo_script.edited(file.read_text("utf-8"), edit), "utf-8")
        except ValueError as changed:
            raise Stuck(f"{changed}; run the demonstration without --keep-lake") from changed
        began = time.monotonic()
        while (now := (await self._live({edit.path})).get(edit.path)) is None or now.version <= before:
            if time.monotonic() - began > REINDEX_WITHIN:
                raise Stuck(f"{edit.path} was edited, but not indexed again within {REINDEX_WITHIN:.0f} s")
            await asyncio.sleep(_LOOK)
        console.out().print(f"  version {now.version} is current after {time.monotonic() - began:.2f} s")

    async def _ask_the_unanswerable(self, app: Upstream) -> None:
        self._title("Ask a question that the handbook does not answer")
        for question in self._questions:
            if not question.answerable:
                self._check(demo_script.faults(question, await self._put(app, question.text)))

    # -- helpers

    async def _put(self, app: Upstream, text: str) -> Answer:
        console.out().print(f"\n  [bold blue]?[/bold blue] {text}")
        began = time.monotonic()
        answer = await app.ask(text)
        answers.show(answer, time.monotonic() - began)
        return answer

    def _check(self, wrong: Iterable[str]) -> None:
        self._checks += 1
        self.failures += wrong

    async def _live(self, wanted: set[str]) -> "dict[str, Document]":
        """The `wanted` documents that are indexed completely, by path."""
        from ops.registry import documents

        entries = await documents(self._target())
        return {each.path: each for each in entries if each.path in wanted and each.is_live and each.finished}

    def _target(self) -> Target:
        target = read_stack(self._stack.folder.state)
        if target is None:
            raise Stuck(f"{self._stack.folder.state} no longer describes a running stack")
        return target

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _title(self, text: str) -> None:
        console.out().print(f"\n[bold]{text}[/bold]")


def documents_in(lake: Path) -> set[str]:
    """The paths of all documents in a folder, without hidden files."""
    files = (file.relative_to(lake) for file in lake.rglob("*") if file.is_file())
    return {file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts)}


@asynccontextmanager
async def _progress(total: int) -> "AsyncIterator[Show]":
    """A progress bar on a terminal; nothing in a log."""
    if not console.out().is_terminal:
        yield lambda _done: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(" "), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console.out(), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)
