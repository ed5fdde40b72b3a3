"""Whether the environment is valid for every worker, and has no unknown variables."""

import difflib
import os
import re
from collections.abc import Collection, Iterable, Iterator

from ops.findings import Finding, Level
from ops.target import Target

# Read by `ragbus`, the laptop's stack or tests, but by no worker.
_OF_COMMANDS = (
    *("RAGBUS_ADMIN_URL", "RAGBUS_API_KEY", "RAGBUS_FOLDER", "RAGBUS_GATEWAY_URL"),
    *("RAGBUS_MODEL_ENDPOINT", "RAGBUS_MODEL_ENDPOINT_2", "RAGBUS_MODEL_KEY"),
)
_WANTED = "RAGBUS_CACHE_SECRET"
_SERVICES = ("gateway", "retriever", "generator", "indexer")


def settings(at: Target) -> Iterator[Finding]:
    """Whether every worker could start in this environment, and which variables none reads."""
    import importlib

    from shared.errors import SettingsError

    os.environ.update(at.variables)
    if not os.environ.get(_WANTED):
        said = f"{_WANTED} is not set here; the gateway does not start without it"
        yield Finding(Level.WARN, "settings", said, "set it for the gateway, if it has none: `openssl rand -hex 32`")
        os.environ[_WANTED] = "only for the checks that follow"
    read: set[str] = set()
    for service in _SERVICES:
        module = importlib.import_module(f"services.{service}.settings")
        try:
            settings = getattr(module, f"{service.title()}Settings").load()
        except SettingsError as wrong:
            yield Finding(
                Level.FAIL, "settings", f"{service}: {wrong}", "correct the variable, then run `ragbus doctor` again"
            )
            return
        read |= {f"RAGBUS_{name}".upper() for name in type(settings).model_fields}
    models = at.config / "models.yaml"
    if models.is_file():
        # It names variables for endpoints and keys.
        read |= set(re.findall(r"RAGBUS_[A-Z0-9_]+", models.read_text("utf-8", "replace")))
    unread = list(unread_variables({**os.environ, **at.variables}, read))
    yield from unread
    if not unread:
        yield Finding(Level.OK, "settings", f"valid for {', '.join(_SERVICES)}")


def unread_variables(given: Iterable[str], read: Collection[str]) -> Iterator[Finding]:
    """Variables that begin with RAGBUS_ and that no worker or command reads; probably misspelt."""
    known = {*read, *_OF_COMMANDS}
    for name in sorted(given):
        if name.startswith("RAGBUS_") and name not in known:
            alike = difflib.get_close_matches(name, known, n=1)
            fix = f"did you mean {alike[0]}?" if alike else "remove it, or see docs/reference/settings.md"
            yield Finding(Level.WARN, "settings", f"{name}: unknown variable", fix)
