"""What the pages for users call by name exists: variables, metrics, log events, commands, options, targets, modules."""

import importlib.util
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from ops.main import app
from shared.telemetry import names
from tests.contracts.test_documents import CODE, PAGES, ROOT

# The decisions and the changelog also call by name what is gone; servicebus-local has settings and tests of its own.
OF_USERS = [page for page in PAGES if page.parts[0] != "servicebus-local" and page.parts[:2] != ("docs", "adr")]
OF_USERS.remove(Path("CHANGELOG.md"))
# Names with a dot that are no log events: files, modules, and fields of configuration files.
OTHER = re.compile(r".*\.(py|md|ya?ml|json|sh|toml|txt|js)|local\..*|(request|retrieval|fallback)\..*")


def code(page: Path) -> Iterator[str]:
    """The lines of code in a page: blocks, indented blocks and spans."""
    text = (ROOT / page).read_text("utf-8")
    for found in CODE.finditer(text):
        yield from found[0].strip("`~").splitlines()
    yield from re.findall(r"^ {4}(.+)$", text, re.MULTILINE)


def sources() -> str:
    """All code of the workers and of the commands."""
    files = subprocess.run(
        ["git", "ls-files", "services/*.py", "shared/*.py", "ops/*.py", "local/*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    return "\n".join((ROOT / file).read_text("utf-8") for file in files)


SOURCES = sources()


@pytest.mark.parametrize("page", OF_USERS, ids=str)
def test_variables_metrics_and_log_events_exist(page: Path) -> None:
    settings = (ROOT / "docs/reference/settings.md").read_text("utf-8")
    metrics = {value.replace(".", "_") for value in vars(names).values() if isinstance(value, str)}
    text = "\n".join(code(page))
    missing = [
        *(name for name in re.findall(r"\bRAGBUS_[A-Z0-9_]*[A-Z0-9]\b", text) if name not in settings + SOURCES),
        *(name for name in re.findall(r"\bragbus_[a-z_]+\b", text) if name.removesuffix("_total") not in metrics),
        *(
            name
            for name in re.findall(r"`([a-z_]+\.[a-z][a-z_]+)`", (ROOT / page).read_text("utf-8"))
            if not OTHER.fullmatch(name) and f'"{name}"' not in SOURCES
        ),
    ]
    assert not missing


@pytest.mark.parametrize("page", OF_USERS, ids=str)
def test_commands_targets_and_modules_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    missing = []
    for line in code(page):
        missing += [each for each in re.findall(r"^make ([a-z][a-z-]+)", line) if each not in targets]
        for module in re.findall(r"python -m ([a-z_]+(?:\.[a-z_]+)*)", line):
            if importlib.util.find_spec(module) is None:
                missing.append(module)
        for words in re.findall(r"(?<![\w./-])ragbus ([a-z].*)", line):
            missing += unknown(words.split("#")[0].split("`")[0].split())
    assert not missing


def unknown(words: list[str]) -> list[str]:
    """The command or the options among `words` that `ragbus` does not have."""
    command = typer.main.get_command(app)
    while isinstance(command, TyperGroup) and words:
        name = words.pop(0)
        if name not in command.commands:
            return [f"ragbus {name}"]
        command = command.commands[name]
    options = {"--help", *(option for each in command.params for option in each.opts)}
    given = (word.split("=")[0].rstrip(".,:;)") for word in words)
    return [f"ragbus {command.name} {word}" for word in given if word.startswith("--") and word not in options]
