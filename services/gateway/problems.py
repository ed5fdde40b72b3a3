"""Errors of the HTTP endpoint as problem details (RFC 9457)."""

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from types import MappingProxyType

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from shared.contracts.outcome import Code
from shared.telemetry.logs import get_logger

log = get_logger()

# Worth another attempt, at an unknown time.
_RETRYABLE = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.INTERNAL_SERVER_ERROR}


class Problem(HTTPException):
    """An answer that is an error."""

    def __init__(self, status: HTTPStatus, detail: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(status.value, detail, headers or {})
        self.status = status
        self.code = code or status.phrase.title().replace(" ", "")

    def body(self) -> bytes:
        """The problem document, `application/problem+json`, with the same wait as `Retry-After`."""
        wait = (self.headers or {}).get("Retry-After")
        return json.dumps(
            {
                "type": "about:blank",
                "title": self.status.phrase,
                "status": self.status.value,
                "detail": self.detail,
                "code": self.code,
                "retryable": wait is not None or self.status in _RETRYABLE,
                **({} if wait is None else {"retry_after": int(wait)}),
            }
        ).encode()

    def response(self, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
        """The problem document as a response, with further `headers`."""
        given = {**(self.headers or {}), **headers}
        return Response(self.body(), self.status, given, media_type="application/problem+json")

    def closing_response(self, default_headers: Iterable[tuple[bytes, bytes]] = (), *, without_body: bool) -> bytes:
        """A whole HTTP/1.1 response, after which the connection is closed; `without_body`: to a HEAD."""
        body = self.body()
        headers = {
            "content-type": "application/problem+json",
            "content-length": str(len(body)),
            **(self.headers or {}),
            "connection": "close",
        }
        lines = [
            f"HTTP/1.1 {self.status.value} {self.status.phrase}".encode("ascii"),
            *(name + b": " + value for name, value in default_headers),
            *(f"{name}: {value}".encode("latin-1") for name, value in headers.items()),
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if without_body else body)


def answer_with_problems(app: FastAPI) -> None:
    """Make every error that leaves a route of `app` a problem document."""

    async def problem(_request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return error.response()

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        wrong = [f"{'.'.join(str(step) for step in each['loc'])}: {each['msg']}" for each in error.errors()]
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(wrong[:3]), Code.SCHEMA_INVALID).response()

    async def http_error(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return Problem(HTTPStatus(error.status_code), str(error.detail)).response(error.headers or {})

    async def bug(_request: Request, error: Exception) -> Response:
        log.error("http.bug", error=repr(error), exc_info=error)
        detail = "an internal error occurred; the operator has its traceback"
        return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail, Code.CRASHED).response()

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, bug)
