import subprocess
import sys
from bdb import BdbQuit
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer

from ops import captured_message
from ops.captured_message import CapturedMessage
from ops.main import plainly
from shared.bus.port import Received

ROOT = Path(__file__).parents[3]
HEAVY = {
    "azure",
    "pydantic",
    "redis",
    "qdrant_client",
    "yaml",
    "rich",
    "structlog",
    "asyncio",
    "shared",
    "local",
    "services",
}
COMMANDS = "up demo ask cancel queues dlq capture replay index doctor".split()


def ragbus(*arguments: str, folder: Path, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, *flags, "-m", "ops", *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=300)


def test_help_names_every_command_and_imports_nothing_heavy(tmp_path: Path) -> None:
    shown = ragbus("--help", folder=tmp_path, flags=("-X", "importtime"))
    assert shown.returncode == 0
    assert all(f"  {command} " in shown.stdout for command in COMMANDS)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in shown.stderr.splitlines()}
    assert imported & HEAVY == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "hello"),
        ("cancel", "m1"),
        ("cancel", "--http", "r1"),
        ("queues",),
        ("dlq", "ls"),
        ("dlq", "show", "1"),
        ("capture", "dead"),
        ("index", "status"),
    ],
)
def test_without_a_target_every_command_says_what_to_do(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    told = ragbus(*arguments, folder=tmp_path)
    assert told.returncode == 2
    assert told.stdout == ""
    assert told.stderr.startswith("ragbus: no stack runs in ")
    assert f"no stack runs in {tmp_path.resolve() / '.ragbus'}" in told.stderr
    assert len(told.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("variable", "arguments"),
    [
        ("RAGBUS_SERVICEBUS_CONNECTION_STRING", ("queues",)),
        ("RAGBUS_REDIS_URL", ("replay", "message.json")),
        ("RAGBUS_QDRANT_URL", ("index", "status")),
        ("RAGBUS_GATEWAY_URL", ("ask", "hello", "--http")),
        ("RAGBUS_ADMIN_URL", ("queues",)),
    ],
)
def test_a_variable_that_is_not_an_address_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, arguments: tuple[str, ...]
) -> None:
    emulator = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true"
    message = Received("dead", b"{}", sequence_number=1)
    text = captured_message.write(CapturedMessage(message, "somewhere", datetime.now(UTC), dead_letters=True))
    (tmp_path / "message.json").write_text(text)
    monkeypatch.setenv("RAGBUS_SERVICEBUS_CONNECTION_STRING", emulator)
    monkeypatch.setenv(variable, "nonsense")
    told = ragbus(*arguments, folder=tmp_path)
    assert told.returncode == 2
    *_, last = told.stderr.splitlines()
    assert last.startswith(f"ragbus: {variable} ")


@pytest.mark.parametrize("command", [("up", "--free-ports"), ("demo",)])
def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "file").touch()
    told = ragbus(*command, "--folder", "file", folder=tmp_path)
    said = told.stdout + told.stderr
    assert f"cannot write to {tmp_path.resolve() / 'file'} (File exists): choose another folder" in said
    assert "unexpected" not in said


def test_a_file_that_is_not_there_is_named_before_a_target_is_looked_for(tmp_path: Path) -> None:
    told = ragbus("replay", "nofile", folder=tmp_path)
    assert (told.returncode, told.stderr) == (2, "ragbus: no such file: nofile\n")


@pytest.mark.parametrize("module", ["ops", "ops.main"])
def test_both_modules_are_the_command(tmp_path: Path, module: str) -> None:
    command = (sys.executable, "-m", module, "queues")
    told = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300)
    assert told.returncode == 2
    assert told.stderr.startswith("ragbus: no stack runs in ")


def test_quitting_the_debugger_of_a_bare_breakpoint_is_quiet() -> None:
    @plainly
    def command() -> None:
        raise BdbQuit

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 130


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    assert "Traceback" in ragbus("--debug", "queues", folder=tmp_path).stderr


def test_doctor_fails_without_a_target(tmp_path: Path) -> None:
    told = ragbus("doctor", "--json", folder=tmp_path)
    assert told.returncode == 1
    assert '"what": "target"' in told.stdout


def test_the_upstream_app_needs_nothing_of_ours() -> None:
    text = (ROOT / "ops" / "upstream.py").read_text("utf-8")
    imports = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert not any(word in line for line in imports for word in ("shared", "ops", "local", "services"))
