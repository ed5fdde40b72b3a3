"""The stack: starts the parts, watches over them, stops them in order.

start        redis, broker, vectors, llm ─▶ broker ready ─▶ workers, lake ─▶ all ready
watch        a part that ends by itself ends the whole stack, with a sentence about which and why
stop         lake (nothing new) ─▶ workers (they drain) ─▶ broker, vectors, llm, redis
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from local.stack import ports, recipe
from local.stack.broker_config import emulator_config
from local.stack.child import ROOT, Child, ProcessSpec
from local.stack.errors import CannotStart, Died, StackError
from local.stack.folder import Folder
from local.stack.recipe import Addresses

EXAMPLE = ROOT / "examples" / "onboarding"
ONE_OF_EACH = dict.fromkeys(recipe.SERVICES, 1)
NO_WORKERS = dict.fromkeys(recipe.SERVICES, 0)
# What may be used instead of a stand-in, and the variable that says so.
INSTEAD = {"redis": "RAGBUS_REDIS_URL", "vectors": "RAGBUS_QDRANT_URL", "llm": "RAGBUS_MODEL_ENDPOINT"}
# How often to start with other ports: another program may take a free port between our check and a part's bind.
_STARTS = 4
_SCHEME = {"redis": "redis", "vectors": "http", "llm": "http"}

T = TypeVar("T")
Progress = Callable[[str, float], None]


class Stack:
    """The whole system on this machine, as separate processes.

        async with Stack(folder, ports="free") as stack:
            ... stack.connection_string ...

    When a part dies, `wait` and `during` raise `Died` at once, and so does the end of the block.
    """

    def __init__(
        self,
        folder: Path = Path(".ragbus"),
        *,
        ports: Literal["usual", "free"] = "usual",
        config: Path = EXAMPLE,
        documents: Path = EXAMPLE / "handbook",
        workers: Mapping[str, int] | None = None,
        lake: bool = True,
        settings: Mapping[str, Mapping[str, str]] | None = None,
        instead: Mapping[str, str] | None = None,
        reset: bool = False,
        patience: float = 90.0,
        lock: timedelta | None = None,
        ingress_windows: Mapping[str, timedelta] | None = None,
        starting: Callable[[], None] = lambda: None,
        progress: Progress = lambda _name, _seconds: None,
    ) -> None:
        """Nothing starts before the block is entered, which raises `CannotStart`.

        `workers`: processes by service, default one. `settings`: variables by service or process name, `*` for all.
        `instead`: URLs of a Redis, a Qdrant or a model to use instead of our own (`from_environment`). `reset`: delete
        data, logs and edited documents first. `patience`: seconds until a part counts as not ready. `lock`: the queues'
        lock duration, default the topology's; a short one returns a killed worker's message soon. `ingress_windows`:
        the duplicate windows of ingress queues, default the topology's. `starting` is called once the ports and the
        folder are ours, before the first part starts; `progress` for each part that is ready, with its name and the
        seconds since the start.
        """
        self.folder = Folder(folder)
        self.children: dict[str, Child] = {}
        self._usual = ports == "usual"
        self.config = config.resolve()
        self._documents = documents.resolve()
        self._services = recipe.names({**ONE_OF_EACH, **(workers or {})})
        self._with_lake = lake
        self._settings = settings or {}
        self._instead = dict(instead or {})
        self._reset = reset
        self._patience = patience
        self._lock = lock
        self._ingress_windows = ingress_windows or {}
        self._starting = starting
        self._progress = progress
        self._began = time.monotonic()
        self._addresses: Addresses | None = None
        self._environment: dict[str, str] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._death: Died | None = None
        self._died = asyncio.Event()

    # -- where everything is

    @property
    def addresses(self) -> Addresses:
        """Where the parts listen; known once the stack is started."""
        if self._addresses is None:
            raise RuntimeError("the stack is not started: use `async with Stack(...)`")
        return self._addresses

    @property
    def connection_string(self) -> str:
        """Of the broker, for any Azure Service Bus SDK."""
        return self.addresses.connection_string

    @property
    def admin_url(self) -> str:
        """The broker's administration port."""
        return self.addresses.admin_url

    @property
    def redis_url(self) -> str:
        """Redis."""
        return self.addresses.redis_url

    @property
    def qdrant_url(self) -> str:
        """Qdrant's REST API."""
        return self.addresses.qdrant_url

    @property
    def llm_url(self) -> str:
        """The models; `/control/…` makes them fail on request."""
        return self.addresses.llm_url

    @property
    def gateway_url(self) -> str:
        """The HTTP endpoint of the first gateway."""
        return f"http://{ports.HOST}:{self.addresses.http['gateway']}"

    def health_url(self, name: str) -> str:
        """Where a worker or the lake serves /healthz, /readyz, /connected and /metrics."""
        return f"http://{ports.HOST}:{self.addresses.health[name]}"

    @property
    def lake(self) -> Path:
        """The folder whose changes become storage events."""
        return self.folder.lake

    def process(self, name: str) -> Child:
        """The process of a part; raises `KeyError`."""
        return self.children[name]

    def env(self, name: str = "") -> dict[str, str]:
        """The settings that the process `name` runs with, or those that all have in common."""
        service = self._services.get(name, name)
        own = [self._settings.get(key, {}) for key in dict.fromkeys(("*", service, name))]
        return {**self._environment, **{key: value for each in own for key, value in each.items()}}

    # -- life

    async def __aenter__(self) -> Self:
        self._began = time.monotonic()
        self.folder.take()
        try:
            self._plan()
            self._starting()
            await self._begin()
            self._announce()
        except BaseException as failure:
            await self._leave()
            if isinstance(failure, Died):
                raise CannotStart(str(failure)) from None
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()
        if self._death is not None:
            raise self._death

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; when a part dies first, `work` is cancelled and `Died` raised."""
        working = asyncio.ensure_future(work)
        dying = asyncio.ensure_future(self._died.wait())
        try:
            await asyncio.wait({working, dying}, return_when=asyncio.FIRST_COMPLETED)
            if self._death is not None:
                raise self._death
            return working.result()
        finally:
            for task in (working, dying):
                task.cancel()
            await asyncio.gather(working, dying, return_exceptions=True)

    async def wait(self) -> None:
        """Wait until a part dies, and raise `Died`."""
        await self.during(asyncio.Event().wait())

    # -- one part at a time

    async def stop_one(self, name: str) -> None:
        """Stop a part as Kubernetes would: SIGTERM, then SIGKILL after its grace period. Raises `KeyError`."""
        await self.children[name].stop()

    def kill(self, name: str) -> None:
        """End a part at once (SIGKILL), as a failing node would."""
        self.children[name].kill()

    async def start_one(self, name: str, settings: Mapping[str, str] | None = None) -> None:
        """Start a part that was stopped or killed, with additional `settings`; returns when it is ready.

        Raises `CannotStart`, `KeyError` for an unknown part, `RuntimeError` for one that runs.
        """
        child = self.children[name]
        if child.alive and not child.expected:
            raise RuntimeError(f"{name} is running: stop or kill it first, or use restart")
        await child.wait()
        # The watcher of the last process must have handled its end before the next one starts.
        await asyncio.gather(*(watcher for watcher in self._watchers if watcher.get_name() == _watching(child)))
        child.spec = replace(child.spec, environment={**child.spec.environment, **(settings or {})})
        await self._launch([child])
        await self._ready([child])
        self._announce()

    async def restart(self, name: str, settings: Mapping[str, str] | None = None) -> None:
        """Stop a part (if it runs) and start it again."""
        await self.stop_one(name)
        await self.start_one(name, settings)

    def hurry(self) -> None:
        """Kill every part, without waiting for its grace period."""
        for child in self.children.values():
            child.kill()

    # -- planning

    def _plan(self) -> None:
        """Decide on addresses and environment, and write down what the parts will read."""
        own = [name for name in INSTEAD if name not in self._instead]
        gateways = [name for name, service in self._services.items() if service == "gateway"]
        free = ports.free()
        wanted = ["broker", "admin", *own, *gateways[:1]]
        port = ports.usual(wanted) if self._usual else dict(zip(wanted, free, strict=False))
        urls = {name: f"{_SCHEME[name]}://{ports.HOST}:{port[name]}" for name in own} | self._instead
        self._addresses = Addresses(
            broker=port["broker"],
            admin=port["admin"],
            redis_url=urls["redis"],
            qdrant_url=urls["vectors"],
            llm_url=urls["llm"],
            own={name: port[name] for name in own},
            http={name: port.get(name) or next(free) for name in gateways},
            health={name: next(free) for name in (*self._services, "lake")},
        )
        self.folder.prepare(self._documents, reset=self._reset)
        self._environment = recipe.common(self._addresses, self.config, self.folder)
        self.folder.write(self.folder.broker_config, emulator_config(self._queues()))

    def _queues(self) -> list[Any]:
        """The topology of the configuration, with the locks and windows of this stack."""
        from shared.access.callers import Callers
        from shared.contracts.queues import topology
        from shared.errors import SettingsError

        try:
            callers = Callers.read(self.config / "callers.yaml")
        except SettingsError as wrong:
            raise CannotStart(str(wrong)) from wrong
        queues = []
        for queue in topology(callers.ingresses(), callers.reply_queues()):
            window = self._ingress_windows.get(queue.name, queue.duplicate_window)
            # A queue with sessions is a caller's reply queue, whose lock no worker holds.
            lock = queue.lock if queue.sessions or self._lock is None else self._lock
            queues.append(replace(queue, duplicate_window=window, lock=lock))
        return queues

    # -- starting and stopping

    async def _begin(self) -> None:
        """Start; start again with other ports when another program has taken one meanwhile."""
        for starts_left in reversed(range(_STARTS)):
            try:
                await self.during(self._start())
                return
            except StackError:
                lost = next((child for child in self.children.values() if child.lost_its_port()), None)
                if lost is None:
                    raise
                if not starts_left:
                    raise CannotStart(f"{lost.spec.name}: its port is taken by another program ({lost.log})") from None
            await self._stop_in_order()
            self.children.clear()
            self._death = None
            self._died.clear()
            self._plan()

    async def _start(self) -> None:
        at = self.addresses
        stand_ins: dict[str, Callable[[int], ProcessSpec]] = {
            "redis": lambda port: recipe.redis(port, self.folder),
            "vectors": lambda port: recipe.vectors(port, self.folder),
            "llm": recipe.llm,
        }
        own = [stand_ins[name](port) for name, port in at.own.items()]
        await self._launch(self._add([recipe.broker(at, self.folder), *own]))
        await self._ready([self.children["broker"]])
        clients = [recipe.worker(name, service, at, self.env(name)) for name, service in self._services.items()]
        if self._with_lake:
            clients.append(recipe.lake(at, self.folder, self.env("lake")))
        await self._launch(self._add(clients))
        await self._ready([child for name, child in self.children.items() if name != "broker"])

    def _add(self, specs: Iterable[ProcessSpec]) -> list[Child]:
        added = {spec.name: Child(spec, self.folder.logs / f"{spec.name}.log") for spec in specs}
        for child in added.values():
            child.log.unlink(missing_ok=True)
        self.children.update(added)
        return list(added.values())

    async def _launch(self, children: Iterable[Child]) -> None:
        for child in children:
            await child.start()
            watcher = asyncio.create_task(self._watch(child), name=_watching(child))
            self._watchers.add(watcher)
            watcher.add_done_callback(self._watchers.discard)

    async def _watch(self, child: Child) -> None:
        code = await child.wait()
        if not child.expected and self._death is None:
            self._death = Died(ended(child, code))
            self._died.set()

    async def _ready(self, children: Sequence[Child]) -> None:
        """Wait until all are ready; raises `CannotStart` when one ends, or is not ready in time."""

        async def ready(child: Child) -> None:
            if not await child.is_ready():
                raise CannotStart(f"{child.spec.name} ended while starting{_end_of_log(child)}")
            self._progress(child.spec.name, time.monotonic() - self._began)

        try:
            async with asyncio.timeout(self._patience):
                await asyncio.gather(*map(ready, children))
        except TimeoutError:
            late = [child for child in children if not await child.spec.ready.passes()] or list(children)
            name, log = late[0].spec.name, _end_of_log(late[0])
            raise CannotStart(f"{name} was not ready after {self._patience:.0f} s{log}") from None

    async def _leave(self) -> None:
        """Stop everything and let go of the folder; being cancelled meanwhile only makes it quicker."""
        leaving = asyncio.ensure_future(self._stop_in_order())
        while not leaving.done():
            try:
                await asyncio.shield(leaving)
            except asyncio.CancelledError:
                self.hurry()
        self.folder.release()

    async def _stop_in_order(self) -> None:
        for child in self.children.values():
            child.expected = True
        for names in (["lake"], list(self._services), ["broker", "vectors", "llm"], ["redis"]):
            await asyncio.gather(*(self.children[name].stop() for name in names if name in self.children))
        await asyncio.gather(*self._watchers)

    def _announce(self) -> None:
        processes = {
            name: {"pid": child.pid, "log": str(child.log)} for name, child in self.children.items() if child.alive
        }
        here: dict[str, Any] = {
            "format": 1,
            "pid": os.getpid(),
            "processes": processes,
            "environment": self._environment,
        }
        if self.addresses.http:
            here["gateway_url"] = self.gateway_url
        self.folder.write(self.folder.state, here)


def from_environment() -> dict[str, str]:
    """What the environment names to be used instead of a stand-in."""
    return {name: os.environ[variable] for name, variable in INSTEAD.items() if os.environ.get(variable)}


def ended(child: Child, code: int) -> str:
    """How a process ended, as a sentence; `code` is minus the signal's number if it was killed."""
    how = f"status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
    # A process that is killed from outside writes nothing; the last lines of its log are about something else.
    killed = code in (-signal.SIGKILL, -signal.SIGTERM)
    return f"{child.spec.name} ended ({how}){f'; its log: {child.log}' if killed else _end_of_log(child)}"


def _end_of_log(child: Child) -> str:
    lines = child.end_of_log()
    return f"; the end of its log ({child.log}):\n{lines}" if lines else f" and wrote nothing to its log ({child.log})"


def _watching(child: Child) -> str:
    return f"watch {child.spec.name}"
