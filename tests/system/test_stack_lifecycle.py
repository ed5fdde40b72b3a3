"""The stack leaves nothing behind, however it ends. Stand-ins only: what they stand in for does not matter here."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from local.stack import NO_WORKERS, CannotStart, Died, Stack
from local.stack.folder import Folder
from local.stack.ports import HOST, USUAL, free

PATIENCE = 300.0
PARTS = {"broker", "redis", "vectors"}
# Any address will do: with one the stack does not start a model of its own, which takes longest.
NO_MODEL = "http://127.0.0.1:9"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent was killed")


def test_sigterm_leaves_nothing_behind(tmp_path: Path) -> None:
    with running(tmp_path) as stack:
        pids = pids_of(stack.folder)
        assert set(pids) == PARTS
        stack.process.send_signal(signal.SIGTERM)
        assert stack.process.wait(PATIENCE) == 0
        assert_nothing_left(stack.folder, pids)


@pytest.mark.long
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    with running(tmp_path) as stack:
        pids = pids_of(stack.folder)
        stack.process.send_signal(signal.SIGINT)
        assert stack.process.wait(PATIENCE) == 0
        assert_nothing_left(stack.folder, pids)


@pytest.mark.long
@linux_only
def test_a_signal_while_starting_leaves_nothing_behind(tmp_path: Path) -> None:
    with starting(tmp_path) as stack:
        until(lambda: len(children_of(stack.process.pid)) == len(PARTS), "the first parts")
        pids = children_of(stack.process.pid)
        stack.process.send_signal(signal.SIGTERM)
        assert stack.process.wait(PATIENCE) == 0
        assert_nothing_left(stack.folder, pids)


def test_the_crash_of_a_part_stops_everything_and_says_which_and_why(tmp_path: Path) -> None:
    with running(tmp_path) as stack:
        pids = pids_of(stack.folder)
        os.kill(pids["vectors"], signal.SIGKILL)
        assert stack.process.wait(PATIENCE) == 1
        assert "vectors ended (killed by SIGKILL)" in stack.complained()
        assert_nothing_left(stack.folder, pids)


@pytest.mark.long
@linux_only
def test_when_the_parent_is_killed_its_parts_die_too(tmp_path: Path) -> None:
    with running(tmp_path) as stack:
        pids = pids_of(stack.folder)
        stack.process.kill()
        stack.process.wait()
        until(lambda: not any(map(is_alive, pids.values())), "the end of every part")


@pytest.mark.long
async def test_a_part_can_be_killed_and_started_again(tmp_path: Path) -> None:
    async with stand_ins(tmp_path) as stack:
        before = stack.process("redis").pid
        stack.kill("redis")
        await stack.start_one("redis")
        assert stack.process("redis").pid != before
        assert await stack.process("redis").spec.ready.passes()
        assert pids_of(tmp_path)["redis"] == stack.process("redis").pid


@pytest.mark.long
async def test_work_ends_when_a_part_dies(tmp_path: Path) -> None:
    async def lose_redis() -> None:
        async with stand_ins(tmp_path) as stack:
            os.kill(stack.process("redis").pid, signal.SIGKILL)
            await asyncio.wait_for(stack.during(asyncio.Event().wait()), PATIENCE)

    with pytest.raises(Died, match="redis ended"):
        await lose_redis()


@pytest.mark.long
async def test_a_part_that_does_not_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    data = tmp_path / "data" / "vectors"
    data.mkdir(parents=True)
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "local.vectors", "--data", str(data), "--port", str(next(free()))),
        stdout=asyncio.subprocess.PIPE,
    )
    assert other.stdout is not None
    try:
        await asyncio.wait_for(other.stdout.readline(), PATIENCE)
        with pytest.raises(CannotStart, match=r"(?s)vectors ended.*vectors: "):
            await enter(stand_ins(tmp_path))
    finally:
        other.kill()
        await other.communicate()


async def test_one_folder_holds_one_stack(tmp_path: Path) -> None:
    async with stand_ins(tmp_path):
        with pytest.raises(CannotStart, match=f"already .process {os.getpid()}."):
            await enter(stand_ins(tmp_path))
    await enter(stand_ins(tmp_path))


def test_a_taken_port_is_named_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as port:
        monkeypatch.setitem(USUAL, "broker", port)
        with pytest.raises(CannotStart, match=rf"^port {port} \(broker\) is in use: .*--free-ports$"):
            asyncio.run(enter(Stack(tmp_path, workers=NO_WORKERS, lake=False)))


@pytest.mark.long
async def test_documents_edited_in_the_lake_survive_until_reset(tmp_path: Path) -> None:
    async with stand_ins(tmp_path) as stack:
        page = stack.lake / "welcome.md"
        original = page.read_text("utf-8")
        page.write_text("edited", "utf-8")
    async with stand_ins(tmp_path) as stack:
        assert page.read_text("utf-8") == "edited"
    async with stand_ins(tmp_path, reset=True) as stack:
        assert page.read_text("utf-8") == original


@pytest.mark.long
async def test_what_the_stack_writes_is_its_owners_alone_also_in_a_folder_of_an_earlier_version(tmp_path: Path) -> None:
    folder = tmp_path / "ragbus"
    for old in ("data/vectors/handbook/points", "logs/gateway.log", "lake/managers/salary-bands.md"):
        (folder / old).parent.mkdir(parents=True)
        (folder / old).write_text("an earlier version's")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch(0o644)
    (folder / "lake" / "link").symlink_to(elsewhere)
    for each in (folder, *folder.rglob("*")):
        if not each.is_symlink():
            each.chmod(0o755 if each.is_dir() else 0o644)
    before = os.umask(0o022)
    try:
        async with stand_ins(folder):
            written = {each.relative_to(folder).as_posix(): each for each in folder.rglob("*")}
            assert {"data/broker/broker.sqlite3", "logs/vectors.log", "broker.json", "lock"} <= set(written)
            opened = {name for name, each in written.items() if each.lstat().st_mode & 0o077 and not each.is_symlink()}
            assert opened == set()
            assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)
    assert elsewhere.stat().st_mode & 0o777 == 0o644


async def test_what_else_is_in_the_folder_is_left_as_it_is(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    other.chmod(0o644)
    tmp_path.chmod(0o755)
    folder = Folder(tmp_path)
    folder.prepare(tmp_path / "no documents", reset=False)
    assert (tmp_path.stat().st_mode & 0o777, other.stat().st_mode & 0o777) == (0o755, 0o644)
    assert {each.stat().st_mode & 0o777 for each in (folder.data, folder.logs, folder.lake)} == {0o700}


class Started:
    """`python -m local.stack` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._out, self._err = folder / "out", folder / "err"
        command = (
            sys.executable,
            "-m",
            "local.stack",
            "--folder",
            str(folder),
            "--free-ports",
            "--no-lake",
            "--workers",
        )
        environment = {**os.environ, "RAGBUS_MODEL_ENDPOINT": NO_MODEL}
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)

    def said(self) -> str:
        return self._out.read_text()

    def complained(self) -> str:
        return self._err.read_text()


@contextmanager
def starting(folder: Path) -> Iterator[Started]:
    stack = Started(folder)
    try:
        yield stack
    finally:
        stack.process.kill()
        stack.process.wait()


@contextmanager
def running(folder: Path) -> Iterator[Started]:
    with starting(folder) as stack:
        until(lambda: "everything is ready" in stack.said() or stack.process.poll() is not None, "the start")
        assert stack.process.poll() is None, stack.complained()
        yield stack


def stand_ins(folder: Path, **options: Any) -> Stack:
    nothing_more: dict[str, Any] = {"workers": NO_WORKERS, "lake": False, "instead": {"llm": NO_MODEL}}
    return Stack(folder, ports="free", patience=PATIENCE, **nothing_more, **options)


async def enter(stack: Stack) -> None:
    async with stack:
        pass


@contextmanager
def listening() -> Iterator[int]:
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


def pids_of(folder: Path) -> dict[str, int]:
    processes = json.loads((folder / "stack.json").read_text())["processes"]
    return {name: process["pid"] for name, process in processes.items()}


def assert_nothing_left(folder: Path, pids: Mapping[str, int]) -> None:
    assert [name for name, pid in pids.items() if is_alive(pid)] == []
    assert not (folder / "stack.json").exists()


def is_alive(pid: int) -> bool:
    """Whether it runs; one that has ended and waits for its parent to notice does not."""
    try:
        os.kill(pid, 0)
        return sys.platform != "linux" or ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def children_of(parent: int) -> dict[str, int]:
    return {pid: int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()}


def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
