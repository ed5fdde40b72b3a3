"""The installation that a command uses: the environment's, or the stack that runs on this machine.

`RAGBUS_SERVICEBUS_CONNECTION_STRING` or `RAGBUS_SERVICEBUS_NAMESPACE` in the environment wins; then
`.ragbus/stack.json`, which `ragbus up` writes. Any other `RAGBUS_…` variable of the environment overrides the stack's
value, and `--config` overrides both. Every command prints its target, and never a key.
"""

import fcntl
import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from ops.errors import CommandError

FOLDER = Path(".ragbus")
_CONNECTION = "RAGBUS_SERVICEBUS_CONNECTION_STRING"
_NAMESPACE = "RAGBUS_SERVICEBUS_NAMESPACE"
_CONFIG = "RAGBUS_CONFIG"
_GATEWAY = "http://127.0.0.1:8080"
_EMULATOR_ADMIN_PORT = 5300
_WEB = ("http://", "https://")
_BEGINNINGS = {
    "RAGBUS_ADMIN_URL": _WEB,
    "RAGBUS_GATEWAY_URL": _WEB,
    "RAGBUS_QDRANT_URL": _WEB,
    "RAGBUS_REDIS_URL": ("redis://", "rediss://", "unix://"),
}


@dataclass(frozen=True, slots=True)
class Target:
    """An installation, as the variables that its workers get."""

    variables: Mapping[str, str]
    source: str
    gateway: str = _GATEWAY
    overridden: Mapping[str, str] = field(default_factory=dict)
    """The running stack's values of variables that the environment overrides."""

    @property
    def connection_string(self) -> str | None:
        """None: connect by the namespace's name and our own identity."""
        return self.variables.get(_CONNECTION) or None

    @property
    def host(self) -> str:
        """The namespace's host, with its port if it has one; contains no secret."""
        parts = (part.partition("=") for part in (self.connection_string or "").split(";"))
        fields = {name.lower(): value for name, _, value in parts}  # the SDK reads names in any case
        endpoint = fields.get("endpoint") or f"sb://{self.variables.get(_NAMESPACE, '')}"
        return urlsplit(endpoint).netloc

    @property
    def is_local(self) -> bool:
        """Whether it is certainly on this machine."""
        name = urlsplit(f"//{self.host}").hostname or ""
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost"

    @property
    def is_emulator(self) -> bool:
        """Whether it is a stand-in that speaks plain TCP and HTTP."""
        return "UseDevelopmentEmulator=true" in (self.connection_string or "")

    @property
    def admin_url(self) -> str:
        """The administration endpoint of a stand-in."""
        name = urlsplit(f"//{self.host}").hostname
        return self.variables.get("RAGBUS_ADMIN_URL") or f"http://{name}:{_EMULATOR_ADMIN_PORT}"

    @property
    def config(self) -> Path:
        """The folder with callers.yaml and the rest."""
        return Path(self.variables.get(_CONFIG) or "examples/onboarding")

    @property
    def redis_url(self) -> str:
        """The URL of Redis."""
        return self.variables.get("RAGBUS_REDIS_URL") or "redis://127.0.0.1:6379/0"

    @property
    def qdrant_url(self) -> str:
        """The URL of Qdrant."""
        return self.variables.get("RAGBUS_QDRANT_URL") or "http://127.0.0.1:6333"

    def wrong_addresses(self) -> list[str]:
        """The variables that are not an address, one sentence each, without their values."""
        return [
            f"{name} must begin with {' or '.join(beginnings)}"
            for name, beginnings in _BEGINNINGS.items()
            if (value := self.variables.get(name)) and not value.startswith(beginnings)
        ]

    def differences(self) -> list[str]:
        """The variables that override the running stack's, one line each, without their values."""
        return [
            f"configuration: {self.config}; the running stack uses {stack_value}"
            if name == _CONFIG
            else f"{name} comes from this terminal, not from the running stack"
            for name, stack_value in sorted(self.overridden.items())
        ]

    def __str__(self) -> str:
        return f"{self.host} (from {self.source})"


def find(environment: Mapping[str, str] = os.environ, folder: Path = FOLDER, config: Path | None = None) -> Target:
    """The target, with `config` as its configuration if given; raises `CommandError` when there is none."""
    ours = {name: value for name, value in environment.items() if name.startswith("RAGBUS_") and value}
    if config is not None:
        ours[_CONFIG] = str(config)
    if _CONFIG in ours:
        ours[_CONFIG] = str(Path(ours[_CONFIG]).resolve())
    if _CONNECTION in ours or _NAMESPACE in ours:
        found = Target(ours, "the environment", gateway=ours.get("RAGBUS_GATEWAY_URL", _GATEWAY))
        if not found.host:
            raise CommandError(f"{_CONNECTION} is not a connection string: it must contain Endpoint=sb://HOST")
        return found
    running = read_stack(folder / "stack.json")
    if running is None and _is_held(folder / "lock"):
        raise CommandError(f"the stack in {folder.resolve()} is still starting: try again in a few seconds")
    if running is None:
        raise CommandError(
            f"no stack runs in {folder.resolve()}: start one with `ragbus up` in another terminal, "
            f"choose another folder with --folder, or set {_CONNECTION} (or {_NAMESPACE})"
        )
    return replace(
        running,
        variables={**running.variables, **ours},
        gateway=ours.get("RAGBUS_GATEWAY_URL", running.gateway),
        overridden={name: value for name, value in running.variables.items() if name in ours and ours[name] != value},
    )


def read_stack(file: Path) -> Target | None:
    """The stack that `file` describes; None when it does not run."""
    try:
        described = json.loads(file.read_text("utf-8"))
        variables, pid = dict(described["environment"]), int(described["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it runs, under another user
    return Target(variables, str(file), gateway=str(described.get("gateway_url", _GATEWAY)))


def _is_held(lock: Path) -> bool:
    """Whether a starting stack holds its folder but has not written its addresses yet."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
