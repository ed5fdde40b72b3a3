"""Capture and replay with the command, on the running system; all of it happens inside the duplicate window."""

import ast
import asyncio
import base64
import inspect
import json
import shutil
import sys
import textwrap
import uuid
from pathlib import Path
from typing import Any

import pytest

from local.stack.stack import EXAMPLE
from services.gateway.ask_consumer import AskConsumer
from shared.contracts.ids import request_id
from tests.support.waiting import until
from tests.system.conftest import App

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROOT = Path(__file__).parents[2]
RAGBUS = Path(sys.executable).with_name("ragbus")


async def ragbus(app: App, *arguments: str, status: int = 0) -> str:
    """What the command prints, on its standard output first."""
    at = {"RAGBUS_GATEWAY_URL": app.stack.gateway_url}
    return await run(RAGBUS, *arguments, environment={**app.stack.env(), **at}, status=status)


async def run(*command: str | Path, environment: dict[str, str], typed: str = "", status: int = 0) -> str:
    """What a program prints; `typed` is its standard input."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": "/usr/bin:/bin", "NO_COLOR": "1", "COLUMNS": "200", **environment},
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(typed.encode())
    assert process.returncode == status, err.decode()
    return out.decode() + err.decode()


async def a_dead_ask(app: App, folder: Path, body: bytes = b"{not json") -> tuple[str, str, Path]:
    """An ask that died and was captured: its session, its request id, its file."""
    name = uuid.uuid4().hex
    session = await app.post(body, message_id=name, reply_to_session_id=f"s-{name}")
    [answer] = await app.answers(session)
    assert answer["outcome"] == "failed"
    request = request_id("tessolund", "welcome-app", name)
    assert answer["request_id"] == request

    async def archived() -> bool:
        return any(str(dead.message_id) == name for dead in await app.dead())

    await until(archived)
    await ragbus(app, "capture", "dead", "--dead", "--out", str(folder), "--where", f"message_id=={name}")
    [file] = folder.glob("*.json")
    return session, request, file


async def test_a_captured_message_is_a_readable_file_with_everything_in_it(app: App, tmp_path: Path) -> None:
    session, _, file = await a_dead_ask(app, tmp_path)
    captured = json.loads(file.read_text())
    text = json.dumps(captured)
    for word in (session, "SchemaInvalid", "ask.v1"):
        assert word in text
    assert base64.b64decode(captured["body_base64"]) == b"{not json"
    assert "SharedAccessKey" not in text
    assert len([dead for dead in await app.dead() if dead.reply_to_session_id == session]) == 1  # it is still there


async def test_a_request_with_its_outcome_is_not_replayed_unless_told_to(app: App, tmp_path: Path) -> None:
    session, request, file = await a_dead_ask(app, tmp_path, b'{"question": 7}')
    said = await ragbus(app, "replay", str(file), "--to", "local")
    assert "outcome" in said
    # Mended, as one would in a pull request, and sent twice in a row: two outcomes under ids of their own.
    mend(file, {"question": "What are the core hours for remote workers?"})
    for number in (1, 2):
        await ragbus(app, "replay", str(file), "--to", "local", "--rerun")
        [answer] = await app.answers(session)
        assert answer["outcome"] == "answered"
        assert answer["request_id"] == request
        assert answer["message_id"] == f"{request}/reply/{answer['run']}"
        assert int(answer["run"].removeprefix("p")) >= number
    assert await app.answers(session, wait=1) == []  # and nothing came of the one without --rerun


async def test_inline_runs_the_handler_here_and_sends_nothing(app: App, tmp_path: Path) -> None:
    session, _, file = await a_dead_ask(app, tmp_path, b'{"question": 7}')
    mend(file, {"question": "What are the core hours for remote workers?"})
    printed = await ragbus(app, "replay", str(file), "--inline", "--queue", "ask")
    assert "retrieve" in printed
    assert "deadline.v1" in printed
    assert await app.answers(session, wait=1) == []


async def test_a_breakpoint_in_a_handler_is_hit_and_quitting_is_quiet(app: App, tmp_path: Path) -> None:
    _, _, file = await a_dead_ask(app, tmp_path, b'{"question": 7}')
    mend(file, {"question": "What are the core hours for remote workers?"})
    here = f"{inspect.getsourcefile(AskConsumer)}:{first_line(AskConsumer.handle)}"
    typed = f"tbreak {here}\ncontinue\np 'attempt', attempt\nquit\n"
    replay = ("replay", str(file), "--inline", "--queue", "ask")
    said = await run(
        *(sys.executable, "-m", "pdb", "-m", "ops.main", *replay), environment=dict(app.stack.env()), typed=typed
    )
    assert "('attempt', 1)" in said
    assert "BdbQuit" not in said


async def test_a_configuration_that_was_named_wins_over_the_running_stacks(app: App, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(EXAMPLE, other, ignore=shutil.ignore_patterns("handbook", "sources"))
    callers = other / "callers.yaml"
    callers.write_text(callers.read_text().replace("name: welcome-app", "name: another-app"))
    stack = ("--folder", str(app.stack.folder.path))
    for named, environment in (((), {"RAGBUS_CONFIG": str(other)}), (("--config", str(other)), {})):
        said = await run(*(RAGBUS, "ask", "How?", "--as", "nobody", *named, *stack), environment=environment, status=2)
        assert "it has: another-app" in said
        assert f"configuration: {other}; the running stack uses {EXAMPLE}" in said


async def test_nothing_is_sent_to_azure_by_mistake(app: App, tmp_path: Path) -> None:
    _, _, file = await a_dead_ask(app, tmp_path)
    refused = await ragbus(app, "replay", str(file), "--to", "prod.servicebus.windows.net", status=2)
    assert "not prod.servicebus.windows.net" in refused


async def test_queues_and_dead_letters_can_be_looked_at(app: App) -> None:
    depths = json.loads((await ragbus(app, "queues", "--json")).partition("\ntarget")[0])
    text = json.dumps(depths)
    assert "retrieve" in text
    assert "blob-events" in text
    assert "SchemaInvalid" in await ragbus(app, "dlq", "ls")


async def test_the_command_asks_as_an_app_would(app: App) -> None:
    said = await ragbus(app, "ask", "What are the core hours for remote workers?")
    assert "10:00" in said
    assert "remote-work.md" in said


def mend(file: Path, body: dict[str, Any]) -> None:
    """Edit the body of a captured message."""
    file.write_text(json.dumps({**json.loads(file.read_text()), "body": body}))


def first_line(function: Any) -> int:
    """Where the body of `function` begins, after its docstring."""
    source, start = inspect.getsourcelines(function)
    [definition] = ast.parse(textwrap.dedent("".join(source))).body
    assert isinstance(definition, ast.AsyncFunctionDef)
    return start + definition.body[1].lineno - 1
