"""The checks of `ragbus doctor`. Each yields what it found, with the fix."""

import asyncio
import difflib
import json
import os
import re
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ops import depths, say
from ops.connect import bus, callers
from ops.findings import Finding, Level
from ops.problem import Problem
from ops.target import Target
from shared.contracts.queues import DEAD, SKEW, Queue, topology

if TYPE_CHECKING:
    from azure.servicebus.management import QueueProperties

    from shared.access.use_cases import UseCase
    from shared.llm.deployments import Deployment

OLDEST_PYTHON = (3, 11)
# The scripts and the commands that we use; 6.2 is what the oldest supported Azure Cache runs above.
OLDEST_REDIS = (6, 2)
EMULATOR_CONNECTIONS = 10
_PATIENCE = 5.0
# Read by `ragbus`, by the laptop's stack or by tests, and by no worker's settings.
_OF_COMMANDS = (
    *("RAGBUS_ADMIN_URL", "RAGBUS_API_KEY", "RAGBUS_FAILPOINTS", "RAGBUS_FOLDER", "RAGBUS_GATEWAY_URL"),
    *("RAGBUS_MODEL_ENDPOINT", "RAGBUS_MODEL_ENDPOINT_2", "RAGBUS_MODEL_KEY"),
)
_WANTED = "RAGBUS_CACHE_SECRET"
_SERVICES = ("gateway", "retriever", "generator", "indexer")


@dataclass(frozen=True, slots=True)
class Page:
    """An HTTP answer, whatever its status; the names of its headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def python() -> Iterator[Finding]:
    """The interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= OLDEST_PYTHON:
        yield Finding(Level.OK, "python", version)
    else:
        yield Finding(
            Level.FAIL, "python", f"{version} is too old", "make clean, then make PYTHON=python3.11 (or newer)"
        )


def ports() -> Iterator[Finding]:
    """Whether `ragbus up` would find its ports free."""
    from local.stack.errors import CannotStart
    from local.stack.ports import USUAL, usual

    for name in USUAL:
        try:
            usual([name])
        except CannotStart as taken:
            said, _, fix = str(taken).partition(": ")
            yield Finding(Level.WARN, "ports", said, fix)


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


def configuration(at: Target) -> Iterator[Finding]:
    """The files in the configuration folder, and whether they go together."""
    from ops.consistency import Configuration, contradictions
    from services.gateway.main import check_deadlines, check_rights
    from services.gateway.settings import GatewaySettings
    from services.indexer.sources import Sources
    from shared.access.use_cases import read_use_cases
    from shared.errors import SettingsError
    from shared.llm.deployments import Deployments

    try:
        known, use_cases = callers(at), read_use_cases(at.config / "use_cases")
        sources = Sources.read(at.config / "sources.yaml")
        models = Deployments.read(at.config / "models.yaml")
        check_rights(known, use_cases)
        check_deadlines(use_cases, GatewaySettings.load())
    except SettingsError as wrong:
        yield Finding(Level.FAIL, "configuration", str(wrong), "correct the file (or RAGBUS_CONFIG)")
    else:
        embeddings = at.variables.get("RAGBUS_EMBEDDING_DEPLOYMENT", "embeddings")
        found = [
            *unknown_deployments(use_cases.values(), [each.name for each in models.chats()]),
            *contradictions(Configuration(known, use_cases, sources, models, embeddings)),
        ]
        yield from found
        if not found:
            there = f"{say.count(len(known.callers), 'caller')}, {say.count(len(use_cases), 'use case')}"
            yield Finding(Level.OK, "configuration", f"{at.config}: {there}")


def unknown_deployments(use_cases: "Iterable[UseCase]", chats: Sequence[str]) -> Iterator[Finding]:
    """The deployments that use cases name, but that no chat model has: who asks there would be told `failed`."""
    for use_case in use_cases:
        for name in use_case.deployments:
            if name not in chats:
                said = f"use case {use_case.name}: deployments: there is no chat deployment {name!r} in models.yaml"
                yield Finding(Level.FAIL, "configuration", said, f"name one that is there: {', '.join(chats)}")


def broker(at: Target) -> Iterator[Finding]:
    """Whether the broker can be reached and lets us in."""
    name, port = urlsplit(f"//{at.host}").hostname or "", urlsplit(f"//{at.host}").port or 5671
    try:
        socket.create_connection((name, port), _PATIENCE).close()
    except OSError as away:
        fix = (
            "is `ragbus up` running?"
            if at.is_emulator
            else "check name, network and firewall (AMQP over TLS, port 5671)"
        )
        yield Finding(Level.FAIL, "broker", f"{name}:{port} cannot be reached ({away})", fix)
        return
    asyncio.run(_peek(at))
    yield Finding(Level.OK, "broker", f"{at.host} lets us in")


async def _peek(at: Target) -> None:
    async with bus(at) as connected:
        await connected.peek(DEAD, limit=1)


def queues(at: Target) -> Iterator[Finding]:
    """Whether the broker has the queues of the topology, set up as they must be, and what died in them."""
    known = callers(at)
    expected = topology(known.ingresses(), known.reply_queues())
    with depths.administration(at) as client:
        actual, held = depths.properties(client), depths.depths(client)
    window = timedelta(seconds=float(at.variables.get("RAGBUS_DUPLICATE_WINDOW", "600")))
    wrong = list(topology_faults(expected, actual, window))
    yield from wrong
    if not wrong:
        yield Finding(Level.OK, "queues", f"all {len(expected)} are there, as they should be")
    dead = {depth.queue: depth.dead for depth in held if depth.dead}
    if dead:
        told = ", ".join(f"{count} in {queue}" for queue, count in dead.items())
        yield Finding(Level.WARN, "dead letters", told, f"ragbus dlq ls {next(iter(dead))}")


def topology_faults(
    expected: Iterable[Queue], actual: "Mapping[str, QueueProperties]", window: timedelta
) -> Iterator[Finding]:
    """How the queues differ from what the workers rely on. `window`: what the gateway was told of theirs."""
    for queue in expected:
        there = actual.get(queue.name)
        if there is None:
            yield Finding(Level.FAIL, "queues", f"{queue.name} is missing", "deploy the queues again (deploy/)")
            continue
        for level, wrong in _differences(queue, there, window):
            yield Finding(level, "queues", f"{queue.name}: {wrong}", "deploy the queues again (deploy/)")


def _differences(queue: Queue, there: "QueueProperties", window: timedelta) -> Iterator[tuple[Level, str]]:
    must: dict[str, tuple[Any, Any]] = {
        "requires sessions": (queue.sessions, bool(there.requires_session)),
        "duplicate detection": (queue.duplicate_window is not None, bool(there.requires_duplicate_detection)),
        "dead-lettering on expiry": (queue.dead_letter_on_expiry, bool(there.dead_lettering_on_message_expiration)),
        "forwards dead letters to": (
            queue.forward_dead_letters_to or "nowhere",
            entity(there.forward_dead_lettered_messages_to) or "nowhere",
        ),
    }
    for what, (wanted, found) in must.items():
        if wanted != found:
            yield Level.FAIL, f"{what}: {_said(found)}, must be {_said(wanted)}"
    there_window = _duration(there.duplicate_detection_history_time_window)
    if queue.is_ingress and queue.duplicate_window and there_window and there_window > queue.duplicate_window:
        yield (
            Level.WARN,
            f"duplicate window {there_window}, meant to be {queue.duplicate_window}: a repeat gets no answer",
        )
    if not queue.is_ingress and queue.duplicate_window and there_window is not None and there_window < window:
        yield Level.FAIL, f"duplicate window {there_window}, but RAGBUS_DUPLICATE_WINDOW says {window}"
    lock = _duration(there.lock_duration)
    if lock is not None and lock < queue.lock:
        yield Level.WARN, f"lock {lock}, meant to be {queue.lock}"
    if (there.max_delivery_count or 0) < queue.max_delivery_count:
        yield Level.WARN, f"max delivery count {there.max_delivery_count}, meant to be {queue.max_delivery_count}"


def entity(address: str | None) -> str:
    """The queue's name in what Azure answers with: a whole address."""
    return (address or "").rstrip("/").rpartition("/")[2]


def redis(at: Target) -> Iterator[Finding]:
    """Whether Redis takes what the workers do, a write on every node, and is new enough."""
    yield from asyncio.run(_redis(at.redis_url))


async def _redis(url: str) -> list[Finding]:
    from shared.redis import FailFastRedis, RedisUnavailable

    quick = FailFastRedis(url, timeout=_PATIENCE, patience=_PATIENCE)
    try:
        nodes = await quick.probe()
        info: dict[str, Any] = await quick.run(lambda redis: redis.info("server"))
    except RedisUnavailable as away:
        return [redis_refusal(str(away))]
    except ValueError as wrong:
        return [Finding(Level.FAIL, "redis", f"not a Redis URL ({wrong})", "correct RAGBUS_REDIS_URL")]
    finally:
        await quick.close()
    return [redis_version(str(info.get("redis_version", "0")), str(info.get("valkey_version", "")), nodes)]


# What Redis says when it does not take a write, and what to do about it.
_REFUSALS: Mapping[str, str] = {
    "WRONGPASS": "correct the password in RAGBUS_REDIS_URL",
    "invalid username-password": "correct the password in RAGBUS_REDIS_URL",
    "Authentication required": "put the password into RAGBUS_REDIS_URL",
    "no permissions": "let its user run scripts and write keys that begin with ragbus:",
    "read only replica": "point RAGBUS_REDIS_URL to the primary",
    "used memory": "give it more memory, or let it evict (maxmemory-policy volatile-lru)",
    "persist": "mend its disk, or set stop-writes-on-bgsave-error no",
    "not served": "give every hash slot of the cluster to a node",
    "cluster is down": "bring back the nodes that are missing, or let replicas take over",
    "loading": "wait until it has read its data",
    "SELECT is not allowed": "end RAGBUS_REDIS_URL in /0: a cluster has one database",
    "certificate": "name the host that is in its certificate in RAGBUS_REDIS_URL",
}


def redis_refusal(said: str) -> Finding:
    """Why Redis is of no use to the workers."""
    for words, fix in _REFUSALS.items():
        if words.lower() in said.lower():
            return Finding(Level.FAIL, "redis", f"refuses what the workers do ({said})", fix)
    return Finding(Level.FAIL, "redis", f"does not take a write ({said})", "start it, or correct RAGBUS_REDIS_URL")


def redis_version(version: str, valkey: str = "", nodes: int = 1) -> Finding:
    """Whether that version will do. `nodes`: of a cluster."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    said = f"Valkey {valkey} (as Redis {version})" if valkey else f"Redis {version}"
    if numbers < OLDEST_REDIS:
        return Finding(Level.FAIL, "redis", f"{said} is too old", "use 6.2 or newer, or Valkey")
    return Finding(Level.OK, "redis", f"{said}, a cluster of {nodes} nodes" if nodes > 1 else said)


def qdrant(at: Target) -> Iterator[Finding]:
    """Whether Qdrant answers and lets us in."""
    key = at.variables.get("RAGBUS_QDRANT_API_KEY", "")
    try:
        page = _get(f"{at.qdrant_url}/collections", {"api-key": key})
    except OSError as away:
        fix = "start it, or correct RAGBUS_QDRANT_URL"
        yield Finding(Level.FAIL, "qdrant", f"{at.qdrant_url} does not answer ({_why(away)})", fix)
        return
    if page.status in (401, 403):
        yield Finding(Level.FAIL, "qdrant", "refuses our key", "set RAGBUS_QDRANT_API_KEY")
    elif page.status != 200:
        yield Finding(
            Level.FAIL, "qdrant", f"answers {page.status} to /collections", "is RAGBUS_QDRANT_URL really Qdrant's?"
        )
    else:
        yield Finding(
            Level.OK,
            "qdrant",
            f"{at.qdrant_url}, {say.count(len(json.loads(page.body)['result']['collections']), 'collection')}",
        )


def models(at: Target) -> Iterator[Finding]:
    """Whether the deployments' endpoints answer and take our keys."""
    from shared.llm.deployments import Deployments

    seen: set[tuple[str, str | None]] = set()
    for deployment in Deployments.read(at.config / "models.yaml", {**os.environ, **at.variables}).deployments:
        where = (deployment.endpoint, deployment.key_env)
        if where not in seen:
            seen.add(where)
            yield _model(deployment, at)


def _model(deployment: "Deployment", at: Target) -> Finding:
    key = {**os.environ, **at.variables}.get(deployment.key_env or "", "")
    if deployment.key_env and not key:
        return Finding(Level.FAIL, "models", f"{deployment.name}: {deployment.key_env} is not set", "set it to the key")
    azure = f"/openai/models?api-version={deployment.api_version}"
    base = deployment.endpoint.rstrip("/")
    url = base + (azure if deployment.api_version else "/models" if base.endswith("/v1") else "/v1/models")
    try:
        page = _get(url, {"api-key": key, "Authorization": f"Bearer {key}"})
    except OSError as away:
        fix = "start it, or correct the endpoint in models.yaml"
        return Finding(
            Level.FAIL, "models", f"{deployment.name}: {deployment.endpoint} does not answer ({_why(away)})", fix
        )
    # Only a refusal tells: not every server lists its models, and Entra ID is not tried here.
    if page.status in (401, 403) and deployment.key_env:
        return Finding(Level.FAIL, "models", f"{deployment.name} refuses our key", f"correct {deployment.key_env}")
    return Finding(Level.OK, "models", f"{deployment.endpoint} answers")


def clock(at: Target) -> Iterator[Finding]:
    """Our clock against the broker's, or that of whatever else tells the time; where nothing answers, nothing."""
    for url in (at.admin_url if at.is_emulator else f"https://{at.host}", at.qdrant_url, at.gateway):
        try:
            told = _get(url, {}).headers.get("date")
        except OSError:
            continue
        if told:
            yield skew(told, datetime.now(UTC), urlsplit(url).netloc)
            return


def skew(told: str, now: datetime, who: str) -> Finding:
    """How far apart the clocks are; an HTTP date is cut to seconds."""
    apart = abs((now - parsedate_to_datetime(told)).total_seconds())
    if apart > SKEW.total_seconds():
        return Finding(
            Level.FAIL, "clock", f"{apart:.0f} s apart from {who}'s", "synchronise this machine's clock (NTP)"
        )
    return Finding(Level.OK, "clock", f"within {max(1, round(apart))} s of {who}'s")


def lake(at: Target) -> Iterator[Finding]:
    """Whether the documents are where the indexer looks."""
    folder = at.variables.get("RAGBUS_LAKE_FOLDER")
    if folder is None:
        account = at.variables.get("RAGBUS_LAKE_ACCOUNT_URL")
        yield Finding(Level.OK, "lake", account or "the indexer's own choice")
    elif Path(folder).is_dir():
        yield Finding(Level.OK, "lake", folder)
    else:
        yield Finding(Level.FAIL, "lake", f"{folder} is not a folder", "create it, or correct RAGBUS_LAKE_FOLDER")


def connections(at: Target) -> Iterator[Finding]:
    """Whether an emulator's few connections are enough for the workers."""
    if not at.is_emulator:
        return
    try:
        page = _get(f"{at.admin_url}/connections", {})
        now = json.loads(page.body)["current"]
    except (OSError, ValueError, KeyError, TypeError):
        yield _limited(at)
    else:
        yield Finding(Level.OK, "connections", f"{now} open; our own broker has no limit")


def _limited(at: Target) -> Finding:
    if at.connections:
        return Finding(Level.OK, "connections", f"{at.connections} for each process")
    return Finding(
        Level.WARN,
        "connections",
        f"Microsoft's emulator takes {EMULATOR_CONNECTIONS} in all, and the workers want more",
        "set RAGBUS_BUS_CONNECTIONS for each worker, as docker-compose.yml does",
    )


OF_A_TARGET: Mapping[str, Callable[[Target], Iterable[Finding]]] = {
    "settings": settings,
    "configuration": configuration,
    "broker": broker,
    "queues": queues,
    "connections": connections,
    "redis": redis,
    "qdrant": qdrant,
    "models": models,
    "clock": clock,
    "lake": lake,
}


def _get(url: str, headers: Mapping[str, str]) -> Page:
    """An answer, also if it is a refusal; raises `OSError` when there is none."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise Problem(f"{url} is not an http(s) address")
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - http or https, see above
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310
            return Page(answer.status, _lower(answer.headers), answer.read())
    except urllib.error.HTTPError as refused:
        return Page(refused.code, _lower(refused.headers), refused.read())


def _why(error: OSError) -> str:
    return str(getattr(error, "reason", error))


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _duration(value: Any) -> timedelta | None:
    return value if isinstance(value, timedelta) else None


def _said(value: Any) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)
