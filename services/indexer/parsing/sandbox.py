"""Runs parsers in processes of their own, so that the worker survives what a document does to them."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from typing import Any, Protocol

from services.indexer.parsing.document import Block, BlockKind, ParsedDocument
from services.indexer.parsing.formats import Limits
from shared.errors import Reason, TryLater, Unprocessable
from shared.text import escaped

# Documents per process, because native parsers may leak memory.
_DOCUMENTS_PER_PROCESS = 200
_START_SECONDS = 20
# The variables that a process gets; no settings and no secrets.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
# Bytes of JSON per character of the text, with the blocks.
_ROOM_FOR_JSON = 8
_MODULE = "services.indexer.parsing.process"
_COMMAND = f"python -m {_MODULE}"


class Parser(Protocol):
    """Turns a file into text and blocks; raises `Unprocessable` with `PoisonContent` if it cannot be read."""

    async def parse(self, data: bytes, path: str, content_type: str) -> ParsedDocument:
        """Parse the bytes of one blob. Raises `TryLater` when no parser can be started."""


class _Died(Exception):
    """The process ended during a document."""


class _TooSlow(Exception):
    """The document exceeded its time; the text says which."""


class _Child:
    """One parser process, used by one document at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: asyncio.subprocess.Process | None = None
        self._documents = 0

    @property
    def is_fresh(self) -> bool:
        """Whether no earlier document can be the cause of a crash."""
        return self._documents <= 1

    async def ask(self, data: bytes, path: str, content_type: str) -> dict[str, Any]:
        """The answer of the process: `{"document": …}` or `{"refused": why}`.

        Raises `_TooSlow`, `_Died`, and `TryLater` when no process starts.
        """
        if not self._process or self._process.returncode is not None or self._documents >= _DOCUMENTS_PER_PROCESS:
            await self.stop()
            self._documents = 0
            self._process = await _start(self._limits)
        process = self._process
        self._documents += 1
        header = json.dumps({"path": path, "content_type": content_type, "size": len(data)}).encode() + b"\n"
        try:
            async with asyncio.timeout(self._limits.wall_seconds):
                assert process.stdin is not None
                process.stdin.write(header + data)
                await process.stdin.drain()
                return await _read_line(process)
        except TimeoutError as slow:
            await self.stop()
            raise _TooSlow(f"{self._limits.wall_seconds:g} s") from slow
        except (OSError, EOFError, ValueError) as broken:
            code = await self.stop()
            if code == -signal.SIGXCPU:
                raise _TooSlow(f"{self._limits.cpu_seconds} s of processor time") from broken
            raise _Died(f"exit code {code}") from broken
        except asyncio.CancelledError:
            await self.stop()
            raise

    async def stop(self) -> int | None:
        """End the process and wait for its end; returns its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        # The pipe first, because the event loop warns about one that outlives the process.
        assert process.stdin is not None
        process.stdin.close()
        return await process.wait()


class SandboxedParser:
    """`processes` parser processes, each with `limits`. A document that kills or stalls one fails alone."""

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
        parsed = answer["document"]
        blocks = (
            Block(BlockKind(each["kind"]), tuple(each["headings"]), each["page"], each["start"], each["end"])
            for each in parsed["blocks"]
        )
        return ParsedDocument(parsed["title"], parsed["text"], tuple(blocks))

    async def close(self) -> None:
        """End all processes."""
        for child in self._children:
            await child.stop()

    async def _ask(self, child: _Child, data: bytes, path: str, content_type: str) -> dict[str, Any]:
        for _ in range(2):
            try:
                return await child.ask(data, path, content_type)
            except _TooSlow as slow:
                raise _poison(path, f"parsing took longer than {slow}") from slow
            except _Died as died:
                if child.is_fresh:
                    raise _poison(path, f"the parser process crashed ({died})") from died
                # An earlier document may be the cause: try again, in a new process.
        raise _poison(path, "the parser process crashed")


async def _start(limits: Limits) -> asyncio.subprocess.Process:
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", _MODULE, json.dumps(limits.as_dict()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # It may not write files, and standard error may be one.
        stderr=asyncio.subprocess.DEVNULL,
        # One document needs one thread, and threads reserve address space, which is limited.
        env={**environment, "RAYON_NUM_THREADS": "1", "TOKIO_WORKER_THREADS": "1"},
        # Ctrl-C is for the worker, which ends the process itself.
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


async def _read_line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    answer: dict[str, Any] = json.loads(line)
    return answer


def _poison(path: str, why: str) -> Unprocessable:
    return Unprocessable(Reason.POISON_CONTENT, f"{escaped(path)} cannot be indexed: {why}")
