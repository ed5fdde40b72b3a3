"""The faults of one broker: set, struck, removed.

    with LocalBus("orders") as bus:
        bus.faults.server_busy("send", times=3)                    # the SDK tries again
        bus.faults.drop("delivery", where="within", skip=2)        # the third message is torn in two
        with bus.faults.swallow("outcome", times=None) as unheard: # no settlement is confirmed
            ...
        assert unheard.struck == 1

When none is set, the rest of the broker looks at `armed` and goes on. Times are those of the bus, so
a `ManualClock` rules them too.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypedDict, Unpack

from servicebus_local.amqp.events import Event, LinkDetached
from servicebus_local.bus.errors import MessageLockLost
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.queue import Queue
from servicebus_local.faults.cases import Case, case_of, strike
from servicebus_local.faults.delays import Delays
from servicebus_local.faults.fault import SERVER_BUSY, Fault, LinkKind, Occasion, Point, Where
from servicebus_local.faults.now import happen
from servicebus_local.faults.sockets import Sockets
from servicebus_local.nodes.fault_injection import Link, Peer

_REMEMBERED: Final = 1000  # faults that are over and can still be listed


class Chosen(TypedDict, total=False):
    """Which occasions are meant; everything may be left out."""

    entity: str | None
    """The path of an entity; None for all of them."""
    container: str
    """How the client's container id begins."""
    times: int | None
    """How often it strikes; None until it is removed."""
    skip: int
    """How many occasions are let pass first."""
    lasts: float | None
    """After how many seconds it is removed."""
    link: LinkKind | None
    """Of an attach: sender, receiver or management; None for the first two."""
    operation: str | None
    """Of a request: `renew-lock`, say."""


class Handle:
    """A fault that was set; in a `with` statement it is removed at the end."""

    def __init__(self, fault: Fault, remove: Callable[[Fault], None]) -> None:
        self.fault = fault
        self._remove = remove

    @property
    def struck(self) -> int:
        """How often it has struck; of what happens now, how much was hit."""
        return self.fault.struck

    @property
    def over(self) -> bool:
        """Whether it will strike no more."""
        return self.fault.over

    def remove(self) -> None:
        """Let everything go on as it should. Harmless when it is over."""
        self._remove(self.fault)

    def __enter__(self) -> "Handle":
        """Do nothing: it is set already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        self.remove()


class Faults:
    """What goes wrong in one broker."""

    def __init__(self, namespace: Namespace, sockets: Sockets, soon: Callable[[Callable[[], None]], object]) -> None:
        """Take what there is to spoil; `soon` calls a function after what is being done now."""
        self.armed = False
        self.run: Callable[[Callable[[], Any]], Any] = lambda function: function()
        """Calls a function in the broker's thread."""
        self._namespace = namespace
        self._timers = namespace.timers
        self._sockets = sockets
        self._soon = soon
        self._delays = Delays(namespace.timers, self._rearm)
        self._active: list[Fault] = []
        self._all: deque[Fault] = deque(maxlen=_REMEMBERED)
        self._last_id = 0

    # ------------------------------------------------------------------ set and removed

    def set(self, fault: Fault) -> Handle:
        """Let this go wrong from now on; what is to happen now has happened on return.

        Raises `EntityNotFound` and `SessionLockLost` for locks that are not there to be lost.
        """
        self.run(lambda: self._set(fault))
        return Handle(fault, self.remove)

    def _set(self, fault: Fault) -> None:
        if fault.at == "now":
            fault.struck, fault.over = happen(fault, self._namespace, self._sockets), True
        self._last_id += 1
        fault.id = self._last_id
        self._all.append(fault)
        if not fault.over:
            self._active.append(fault)
        if fault.lasts is not None:
            self._timers.at(self._timers.clock() + fault.lasts, lambda: self._end(fault))
        self._rearm()

    def remove(self, fault: Fault) -> None:
        """Let everything go on as it should, as far as this fault is concerned."""
        self.run(lambda: self._end(fault))

    def _end(self, fault: Fault) -> None:
        fault.over = True
        self._rearm()

    def clear(self) -> None:
        """Remove all faults, and forget those that are over; what was delayed still waits for its time."""

        def clear() -> None:
            for fault in self._active:
                fault.over = True
            self._all.clear()
            self._rearm()

        self.run(clear)

    def listed(self) -> list[Fault]:
        """Return the faults since the last `clear`, also those that are over."""
        return list(self.run(lambda: list(self._all)))

    def _rearm(self) -> None:
        self._active = [fault for fault in self._active if not fault.over]
        self.armed = bool(self._active) or bool(self._delays)

    # ------------------------------------------------------------------ in words

    def refuse(
        self,
        at: Point,
        condition: str = SERVER_BUSY,
        description: str = "The local broker was told to refuse this.",
        **chosen: Unpack[Chosen],
    ) -> Handle:
        """Refuse attaches, sends, outcomes, requests or tokens with a condition of AMQP or Service Bus."""
        return self.set(Fault(at, "refuse", condition=condition, description=description, **chosen))

    def server_busy(self, at: Point, **chosen: Unpack[Chosen]) -> Handle:
        """Refuse in the words in which Azure throttles; the SDKs try again."""
        words = "The request was terminated because the entity is being throttled. Please wait and try again."
        return self.refuse(at, SERVER_BUSY, words, **chosen)

    def reject_tokens(self, **chosen: Unpack[Chosen]) -> Handle:
        """Answer 401 to every token; links that are attached stay attached."""
        return self.refuse("token", "amqp:unauthorized-access", "The token has an invalid signature.", **chosen)

    def delay(self, at: Point, seconds: float, **chosen: Unpack[Chosen]) -> Handle:
        """Let things happen later, those that follow on the same link behind them."""
        return self.set(Fault(at, "delay", seconds=seconds, **chosen))

    def ignore(self, at: Point, **chosen: Unpack[Chosen]) -> Handle:
        """Do nothing, and say nothing."""
        return self.set(Fault(at, "ignore", **chosen))

    def swallow(self, at: Point, **chosen: Unpack[Chosen]) -> Handle:
        """Do what was asked for, and say nothing."""
        return self.set(Fault(at, "swallow", **chosen))

    def drop(self, at: Point, where: Where = "before", **chosen: Unpack[Chosen]) -> Handle:
        """Break the connection when something happens: before the answer is out, within its frame, or after it."""
        return self.set(Fault(at, "drop", where=where, **chosen))

    def drop_connections(self, container: str = "", entity: str | None = None) -> int:
        """Break connections now: all, or by their container ids, or those with a link to an entity; return how many."""
        return self.set(Fault("now", "drop", container=container, entity=entity)).struck

    def lose_locks(self, *, after: float = 0.0, **chosen: Unpack[Chosen]) -> Handle:
        """End the locks on the next deliveries, that many seconds after each."""
        return self.set(Fault("delivery", "lose-lock", seconds=after, **chosen))

    def lose_lock(self, entity: str, *, sequence: int | None = None, session: str | None = None) -> int:
        """End a lock now: that on a message, that on a session, or all of an entity; return how many ended."""
        return self.set(Fault("now", "lose-lock", entity=entity, sequence=sequence, session=session)).struck

    def detach(
        self,
        entity: str | None = None,
        condition: str = "amqp:link:detach-forced",
        description: str = "The local broker was told to close this link.",
        *,
        link: LinkKind | None = None,
        container: str = "",
    ) -> int:
        """Close links now, of senders, of receivers or of both; return how many."""
        fault = Fault(
            "now",
            "detach",
            entity=entity,
            condition=condition,
            description=description,
            link=link,
            container=container,
        )
        return self.set(fault).struck

    def stop_reading(self, seconds: float, container: str = "", entity: str | None = None) -> int:
        """Read nothing from these connections for a while; return how many."""
        return self.set(Fault("now", "stop-reading", seconds=seconds, container=container, entity=entity)).struck

    def stop_writing(self, seconds: float, container: str = "", entity: str | None = None) -> int:
        """Write nothing to these connections for a while; return how many."""
        return self.set(Fault("now", "stop-writing", seconds=seconds, container=container, entity=entity)).struck

    # ------------------------------------------------------------------ striking

    def intercept(self, peer: Peer, event: Event) -> bool:
        """Let faults strike at an event; tell whether it is dealt with."""
        if isinstance(event, LinkDetached):
            self._delays.forget(event.link)
            return False
        case = case_of(peer, event)
        if case is None:
            return False
        self._take_up(case)
        return True

    def deliver(self, queue: Queue, link: Link, token: bytes | None, send: Callable[[], None]) -> None:
        """Let faults strike at a delivery, which `send` puts on the wire."""
        occasion = Occasion("delivery", queue.name, link.connection.peer, "receiver", locked=token is not None)

        def lose_lock() -> None:
            with suppress(MessageLockLost):  # it may be settled, or lost, already
                queue.lose_lock(token or b"")

        self._take_up(Case(occasion, link, "out", lambda _silent: send(), lose_lock=lose_lock))

    def held(self, link: Link) -> int:
        """Return how many deliveries wait before they go out on a link: they have used up credit already."""
        return self._delays.waiting(link, "out")

    def after_held(self, link: Link, action: Callable[[], None]) -> None:
        """Do something when the deliveries that wait now are out."""
        if self._delays.waiting(link, "out"):
            self._delays.put(link, "out", 0.0, action)
        else:
            action()

    def _take_up(self, case: Case) -> None:
        """Let faults strike at a case, one after the other until one of them ends it; then end it, now or later."""
        for fault in self._active:
            if fault.strikes(case.occasion) and not strike(fault, case):
                break
        if case.delay or (case.in_order and self._delays.waiting(case.link, case.direction)):
            end = partial(self._finish, case)
            self._delays.put(case.link, case.direction, case.delay, end, in_order=case.in_order)
        else:
            self._finish(case)
        self._rearm()

    def _finish(self, case: Case) -> None:
        """Let the case happen, and break, detach or unlock what the faults that struck have asked for."""
        if case.cut is not None:
            self._sockets.flush(case.link.connection)
        case.happen()
        if case.detach is not None and case.link.attached:
            case.link.detach(case.detach)
        if case.cut is not None:
            self._sockets.cut(case.link.connection, case.cut)
        if case.lose_lock is not None and case.lock_lost_after is not None:
            if case.lock_lost_after:
                self._timers.at(self._timers.clock() + case.lock_lost_after, case.lose_lock)
            else:
                self._soon(case.lose_lock)  # a clock that stands still must not keep it from happening
