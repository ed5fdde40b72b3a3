"""HTTP by hand: requests cut anywhere, and answers that clients understand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local.broker.admin.atom import iso_duration
from local.broker.admin.http import BadRequest, Request, Response, read_request, write_response

GET = b"GET /a%20b?$skip=1&x=y&x=z HTTP/1.1\r\nHost: here:1\r\nAccept: */*\r\n\r\n"
POST = b"POST /p HTTP/1.0\r\ncontent-length: 3\r\n\r\nabc"


def test_a_request_is_read_with_its_query() -> None:
    request = Request("GET", "/a b", {"$skip": "1", "x": "y"}, "here:1", keep_alive=True)
    assert read_request(GET) == (request, len(GET))


def test_a_body_belongs_to_its_request() -> None:
    found = read_request(POST + GET)
    assert found is not None
    assert found[0].keep_alive is False
    assert found[1] == len(POST)


@settings(max_examples=50)
@given(st.integers(0, len(POST) - 1))
def test_half_a_request_is_waited_for(at: int) -> None:
    assert read_request(POST[:at]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET\r\n\r\n",
        b"GET / SPDY/3\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n",
        b"GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"x" * 70_000,
    ],
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        read_request(data)


@settings(max_examples=200)
@given(st.binary(max_size=80).map(lambda data: data + b"\r\n\r\n"))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        read_request(data)
    except BadRequest:
        return


def test_a_response_says_how_long_it_is() -> None:
    written = write_response(Response(200, "text/plain", b"ok"), keep_alive=True)
    head, _, body = written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"content-length: 2" in head
    assert body == b"ok"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(60.0, "PT60S"), (0.5, "PT0.5S"), (1_209_600.0, "PT1209600S"), (float("inf"), "P10675199DT2H48M5.4775807S")],
)
def test_durations_are_written_so_that_clients_read_them(seconds: float, text: str) -> None:
    assert iso_duration(seconds) == text
