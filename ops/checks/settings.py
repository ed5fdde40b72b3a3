"""Whether the environment has what every worker reads, and nothing that none reads."""

import difflib
import os
import re
from collections.abc import Collection, Iterable, Iterator

from ops.findings import Finding, Level
from ops.target import Target

# Read by `ragbus`, by the laptop's stack or by tests, and by no worker's settings.
_OF_COMMANDS = (
    *("RAGBUS_ADMIN_URL", "RAGBUS_API_KEY", "RAGBUS_FAILPOINTS", "RAGBUS_FOLDER", "RAGBUS_GATEWAY_URL"),
    *("RAGBUS_MODEL_ENDPOINT", "RAGBUS_MODEL_ENDPOINT_2", "RAGBUS_MODEL_KEY"),
)
_WANTED = "RAGBUS_CACHE_SECRET"
_SERVICES = ("gateway", "retriever", "generator", "indexer")


def settings(at: Target) -> Iterator[Finding]:
    """What every worker would read from this environment."""
    import importlib

    from shared.errors import SettingsError

    os.environ.update(at.variables)
    if not os.environ.get(_WANTED):
        said = f"{_WANTED} is not set here; the gateway does not start without it"
        yield Finding(Level.WARN, "settings", said, "nothing, if the gateway has it; else `openssl rand -hex 32`")
        os.environ[_WANTED] = "only for the checks that follow"
    read: set[str] = set()
    for service in _SERVICES:
        module = importlib.import_module(f"services.{service}.settings")
        try:
            settings = getattr(module, f"{service.title()}Settings").load()
        except SettingsError as wrong:
            yield Finding(Level.FAIL, "settings", f"{service}: {wrong}", "correct the variable, then ask me again")
            return
        read |= {f"RAGBUS_{name}".upper() for name in type(settings).model_fields}
    models = at.config / "models.yaml"
    if models.is_file():
        # Endpoints and keys are written there as the names of variables.
        read |= set(re.findall(r"RAGBUS_[A-Z0-9_]+", models.read_text("utf-8", "replace")))
    unread = list(unread_variables({**os.environ, **at.variables}, read))
    yield from unread
    if not unread:
        yield Finding(Level.OK, "settings", f"good for {', '.join(_SERVICES)}")


def unread_variables(given: Iterable[str], read: Collection[str]) -> Iterator[Finding]:
    """The variables that look like ours and that neither a worker nor a command reads: misspelt, most likely."""
    known = {*read, *_OF_COMMANDS}
    for name in sorted(given):
        if name.startswith("RAGBUS_") and name not in known:
            alike = difflib.get_close_matches(name, known, n=1)
            fix = f"{alike[0]} is read" if alike else "docs/reference/settings.md lists those that are"
            yield Finding(Level.WARN, "settings", f"{name}: nothing reads it", fix)
