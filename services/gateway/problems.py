"""Errors of the HTTP door as problem details (RFC 9457)."""

import json
from collections.abc import Iterable
from http import HTTPStatus

from starlette.exceptions import HTTPException

# Worth another try although nobody can say when.
_RETRYABLE = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.INTERNAL_SERVER_ERROR}


class Problem(HTTPException):
    """An answer that is an error."""

    def __init__(self, status: HTTPStatus, detail: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(status.value, detail, headers or {})
        self.status = status
        self.code = code or status.phrase.title().replace(" ", "")

    def body(self) -> bytes:
        """The problem document, `application/problem+json`; of trying again it says what `Retry-After` does."""
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
