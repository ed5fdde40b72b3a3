"""What stands in the way of a start, and what a failed one leaves behind."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.stack import ports
from local.stack.child import Child, ProcessSpec
from local.stack.errors import CannotStart
from local.stack.folder import Folder
from local.stack.ready import http_ok
from local.stack.stack import NO_WORKERS, Stack, ended

ELSEWHERE = {"redis": "redis://r", "vectors": "http://q", "llm": "http://m"}


def test_all_usual_ports_that_are_taken_are_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((ports.HOST, 0)) as one, socket.create_server((ports.HOST, 0)) as other:
        first, second = one.getsockname()[1], other.getsockname()[1]
        monkeypatch.setitem(ports.USUAL, "broker", first)
        monkeypatch.setitem(ports.USUAL, "redis", second)
        with pytest.raises(CannotStart) as failure:
            ports.usual(["broker", "redis"])
    expected = f"ports {first} (broker), {second} (redis) are in use: stop what listens there, or use --free-ports"
    assert str(failure.value) == expected


def test_a_start_that_finds_its_port_taken_says_so_first_and_leaves_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    stack = Stack(
        tmp_path, workers=NO_WORKERS, lake=False, instead=ELSEWHERE, starting=lambda: begun.append("starting")
    )
    with socket.create_server((ports.HOST, 0)) as server:
        monkeypatch.setitem(ports.USUAL, "broker", server.getsockname()[1])
        with pytest.raises(CannotStart, match="in use"):
            asyncio.run(_enter(stack))
    assert begun == []
    assert not (tmp_path / "lock").exists()


def test_a_folder_that_was_released_can_be_taken_again(tmp_path: Path) -> None:
    first, second = Folder(tmp_path), Folder(tmp_path)
    first.take()
    with pytest.raises(CannotStart, match="already"):
        second.take()
    first.release()
    second.take()
    with pytest.raises(CannotStart, match="already"):
        first.take()
    second.release()
    assert not second.lock.exists()


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        (
            "OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', 1): address already in use",
            True,
        ),
        ("# Warning: Could not create server TCP listening socket 127.0.0.1:1: bind: Address already in use", True),
        ("servicebus-local: port 5672 on 127.0.0.1 is taken by another program; stop that one", True),
        ("gateway: RAGBUS_HTTP_PORT: port 1 on 127.0.0.1 is taken or not allowed; choose another", True),
        ("gateway: RAGBUS_CACHE_SECRET: too short", False),
        ("", False),
    ],
)
def test_a_part_that_lost_its_port_is_known_by_the_end_of_its_log(tmp_path: Path, said: str, lost: bool) -> None:
    child = Child(ProcessSpec("gateway", (), http_ok(1, "/")), tmp_path / "log")
    child.log.write_text(said)
    assert child.lost_its_port() is lost


@pytest.mark.parametrize(("code", "quoted"), [(-signal.SIGKILL, False), (-signal.SIGTERM, False), (1, True)])
def test_of_a_part_that_was_killed_only_the_log_is_named(tmp_path: Path, code: int, quoted: bool) -> None:
    child = Child(ProcessSpec("retriever", (), http_ok(1, "/")), tmp_path / "log")
    child.log.write_text('{"event": "worker.started"}\n')
    said = ended(child, code)
    assert str(child.log) in said
    assert ("worker.started" in said) is quoted


def test_a_port_that_another_program_takes_meanwhile_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((ports.HOST, 0)) as server:
        taken, draws = server.getsockname()[1], 0
        free = ports.free

        def unlucky() -> Iterator[int]:
            nonlocal draws
            draws += 1
            yield taken if draws == 1 else next(free())
            yield from free()

        monkeypatch.setattr(ports, "free", unlucky)
        stack = Stack(tmp_path, ports="free", workers=NO_WORKERS, lake=False, instead=ELSEWHERE)
        asyncio.run(_enter(stack))
    assert draws == 2
    assert stack.addresses.broker != taken


async def _enter(stack: Stack) -> None:
    async with stack:
        pass
