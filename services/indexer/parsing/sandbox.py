"""Parsing from the worker's side: hands documents to parser processes and outlives whatever happens to them."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any, Protocol

from services.indexer.parsing.document import Block, BlockKind, ParsedDocument
from services.indexer.parsing.formats import Limits
from shared.errors import Reason, TryLater, Unprocessable
from shared.text import escaped

# A fresh process now and then: what leaks in a native parser leaks for this many documents at most.
_DOCUMENTS_PER_PROCESS = 200
_START_SECONDS = 20
# The process sees no setting and no secret of ours.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
_ROOM_FOR_JSON = 8
_MODULE = "services.indexer.parsing.process"
_COMMAND = f"python -m {_MODULE}"


class Parser(Protocol):
    """Turns a file into text and blocks; raises `Unprocessable` with `PoisonContent` if it cannot be read."""

    async def parse(self, data: bytes, path: str, content_type: str) -> ParsedDocument:
        """Parse the bytes of one blob."""


class _Died(Exception):
    """The process ended in the middle of a document."""


class _TooSlow(Exception):
    """The document took more than its time."""


class _Child:
    """One parser process, used by one document at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: asyncio.subprocess.Process | None = None
        self._documents = 0

    @property
    def is_fresh(self) -> bool:
        """Whether no earlier document can be to blame for what happens."""
        return self._documents <= 1

    async def ask(self, data: bytes, path: str, content_type: str) -> dict[str, Any]:
        process = await self._running()
        self._documents += 1
        header = json.dumps({"path": path, "content_type": content_type, "size": len(data)}).encode() + b"\n"
        try:
            async with asyncio.timeout(self._limits.wall_seconds):
                answer = await _exchange(process, header + data)
        except TimeoutError as slow:
            await self.stop()
            raise _TooSlow from slow
        except (OSError, EOFError, ValueError) as broken:
            code = await self.stop()
            raise _Died(f"exit code {code}") from broken
        except asyncio.CancelledError:
            await self.stop()
            raise
        return answer

    async def stop(self) -> int | None:
        """End the process and wait until it is gone."""
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        # Closing the pipe first: the loop would complain about one that outlives the process.
        assert process.stdin is not None
        process.stdin.close()
        return await process.wait()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process and self._process.returncode is None and self._documents < _DOCUMENTS_PER_PROCESS:
            return self._process
        await self.stop()
        self._documents = 0
        self._process = await _start(self._limits)
        return self._process


class SandboxedParser:
    """A few warm parser processes. A document that kills or stalls one fails alone."""

    def __init__(self, limits: Limits, processes: int = 1) -> None:
        self._limits = limits
        self._children = [_Child(limits) for _ in range(processes)]
        self._idle: asyncio.LifoQueue[_Child] = asyncio.LifoQueue()
        for child in self._children:
            self._idle.put_nowait(child)

    async def parse(self, data: bytes, path: str, content_type: str) -> ParsedDocument:
        """See `Parser`."""
        child = await self._idle.get()
        try:
            answer = await self._ask(child, data, path, content_type)
        finally:
            self._idle.put_nowait(child)
        if "refused" in answer:
            raise _poison(path, answer["refused"])
        return _document(answer["document"])

    async def close(self) -> None:
        """End all processes."""
        for child in self._children:
            await child.stop()

    async def _ask(self, child: _Child, data: bytes, path: str, content_type: str) -> dict[str, Any]:
        for _ in range(2):
            try:
                return await child.ask(data, path, content_type)
            except _TooSlow as slow:
                raise _poison(path, f"parsing took longer than {self._limits.wall_seconds:g} s") from slow
            except _Died as died:
                if child.is_fresh:
                    raise _poison(path, f"the parser process crashed ({died})") from died
                # It may have been weakened by documents before this one: once more, in a new process.
        raise _poison(path, "the parser process crashed")


async def _start(limits: Limits) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", _MODULE, json.dumps(limits.as_dict()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # It may write no file, and standard error may be one.
        stderr=asyncio.subprocess.DEVNULL,
        env=_environment(os.environ),
        # Ctrl-C is for us; we end the process when we are done.
        start_new_session=True,
        limit=_ROOM_FOR_JSON * limits.most_characters,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_START_SECONDS):
            await _read_line(process)
    except (TimeoutError, EOFError, ValueError) as broken:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        code = await process.wait()
        raise TryLater(
            f"the parser process does not start (exit code {code}); run `{_COMMAND} '{{}}'` to see why"
        ) from broken
    return process


async def _exchange(process: asyncio.subprocess.Process, asked: bytes) -> dict[str, Any]:
    assert process.stdin is not None
    process.stdin.write(asked)
    await process.stdin.drain()
    return await _read_line(process)


async def _read_line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    answer: dict[str, Any] = json.loads(line)
    return answer


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    kept = {name: ours[name] for name in _ENVIRONMENT if name in ours}
    # Threads reserve address space, which is limited; one document needs one.
    return {**kept, "RAYON_NUM_THREADS": "1", "TOKIO_WORKER_THREADS": "1"}


def _document(answer: dict[str, Any]) -> ParsedDocument:
    blocks = [
        Block(BlockKind(each["kind"]), tuple(each["headings"]), each["page"], each["start"], each["end"])
        for each in answer["blocks"]
    ]
    return ParsedDocument(answer["title"], answer["text"], tuple(blocks))


def _poison(path: str, why: str) -> Unprocessable:
    return Unprocessable(Reason.POISON_CONTENT, f"{escaped(path)} cannot be indexed: {why}")
