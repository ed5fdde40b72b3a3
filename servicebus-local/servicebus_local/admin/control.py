"""What a test of several processes needs of the admin port: faults, and the record of deliveries.

POST   /faults        set a fault, or a list of them; the answer has their ids
GET    /faults        the faults that were set, and how often each has struck
DELETE /faults        remove all of them; /faults/{id} removes one
POST   /deliveries    begin to record: {"limit": 10000}, or nothing for the default
GET    /deliveries    what happened, as JSON lines; ?entity=orders&since=1234
DELETE /deliveries    stop recording, and forget what was recorded

A request with an `api-version` is none of these: it is an administration client's, about an
entity that happens to have such a name.
"""

import json
from collections.abc import Callable
from typing import Any

from servicebus_local.admin.http import Application, Request, Response
from servicebus_local.bus.errors import BusError
from servicebus_local.faults import Fault, FaultError, Faults, read_fault
from servicebus_local.record import LIMIT, Record


class _Refused(ValueError):
    """The request makes no sense; the message says why."""


class Control:
    """Answers requests about faults and deliveries, and passes on all others."""

    def __init__(self, faults: Faults, record: Record, otherwise: Application) -> None:
        self._faults = faults
        self._record = record
        self._otherwise = otherwise
        self._routes: dict[str, dict[str, Callable[[Request], Response]]] = {
            "faults": {"GET": self._list_faults, "POST": self._set_faults, "DELETE": self._remove_faults},
            "deliveries": {"GET": self._list_deliveries, "POST": self._start, "DELETE": self._stop},
        }

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        methods = self._routes.get(request.path.strip("/").partition("/")[0].lower())
        if methods is None or "api-version" in request.query:
            return self._otherwise(request)
        answer = methods.get(request.method)
        if answer is None:
            allowed = ", ".join(methods)
            return Response(405, "text/plain", f"only {allowed} are there\n".encode(), (("allow", allowed),))
        try:
            return answer(request)
        except BusError as refusal:
            return _text(refusal.status, refusal.description)
        except (_Refused, FaultError) as refusal:
            return _text(400, str(refusal))

    # ------------------------------------------------------------------ faults

    def _list_faults(self, request: Request) -> Response:
        _check(request)
        return _json([fault.as_json() for fault in self._faults.listed()])

    def _set_faults(self, request: Request) -> Response:
        _check(request)
        given = _body(request)
        if not isinstance(given, list):
            return _json(self._set(read_fault(given)))
        return _json([self._set(fault) for fault in [read_fault(each) for each in given]])

    def _set(self, fault: Fault) -> dict[str, Any]:
        self._faults.set(fault)
        return fault.as_json()

    def _remove_faults(self, request: Request) -> Response:
        if request.query:
            raise _Refused(f"'{min(request.query)}' is not known here")
        number = request.path.strip("/").partition("/")[2]
        if not number:
            self._faults.clear()
            return _json([])
        found = [fault for fault in self._faults.listed() if str(fault.id) == number]
        if not found:
            return _text(404, f"there is no fault {number}")
        self._faults.remove(found[0])
        return _json(found[0].as_json())

    # ------------------------------------------------------------------ the record

    def _list_deliveries(self, request: Request) -> Response:
        _check(request, "entity", "since")
        since = request.query.get("since", "0")
        if not (since.isascii() and since.isdigit()):
            raise _Refused(f"'since' is the number of an event, not {since!r}")
        events = self._record.events(request.query.get("entity"), int(since))
        lines = "".join(json.dumps(event.as_json()) + "\n" for event in events)
        status = self._record.as_json()
        return Response(
            200,
            "application/jsonl",
            lines.encode(),
            (("x-limit", str(status["limit"])), ("x-dropped", str(status["dropped"]))),
        )

    def _start(self, request: Request) -> Response:
        _check(request)
        given = _body(request) if request.body.strip() else {}
        limit = given.get("limit", LIMIT) if isinstance(given, dict) and set(given) <= {"limit"} else None
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise _Refused('what is expected is {"limit": n}, n being how many events are kept, or nothing')
        self._record.start(limit)
        return _json(self._record.as_json())

    def _stop(self, request: Request) -> Response:
        _check(request)
        self._record.stop()
        self._record.clear()
        return _json(self._record.as_json())


def _check(request: Request, *names: str) -> None:
    """Refuse what would be ignored."""
    _, slash, rest = request.path.strip("/").partition("/")
    if slash:
        raise _Refused(f"there is nothing at '{rest}'")
    unknown = sorted(set(request.query) - set(names))
    if unknown:
        raise _Refused(f"'{unknown[0]}' is not known here" + (f": there are {', '.join(names)}" if names else ""))


def _body(request: Request) -> Any:
    try:
        return json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise _Refused(f"the body is not JSON: {error}") from error


def _text(status: int, sentence: str) -> Response:
    return Response(status, "text/plain", f"{sentence}\n".encode())


def _json(value: Any) -> Response:
    return Response(200, "application/json", json.dumps(value).encode() + b"\n")
