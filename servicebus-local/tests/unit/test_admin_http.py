"""HTTP by hand: requests cut anywhere, and answers that clients understand."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus_local.admin.http import BadRequest, Continue, Request, RequestReader, Response, write_response
from tests.examples import examples

GET = b"GET /a%20b?$skip=1&x=y&x=z&Empty= HTTP/1.1\r\nHost: here:1\r\nAccept: */*\r\n\r\n"
OLD = b"POST /p HTTP/1.0\r\ncontent-length: 3\r\n\r\nabc"
CHUNKED = (
    b"PUT /p HTTP/1.1\r\nhost: h\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"3;note=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
)
HELLO = b"GET / HTTP/1.1\r\nHost: h\r\n"


def read(*pieces: bytes) -> list[Request]:
    """Feed pieces to one reader; return the requests."""
    reader = RequestReader()
    return [event for piece in pieces for event in reader.feed(piece) if isinstance(event, Request)]


def test_a_request_is_read_with_its_query_and_headers() -> None:
    [request] = read(GET)
    assert request == Request(
        "GET",
        "/a b",
        {"$skip": "1", "x": "y", "empty": ""},
        "here:1",
        keep_alive=True,
        headers={"host": "here:1", "accept": "*/*"},
    )


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (b"GET http://there/orders?x=1 HTTP/1.1", "/orders"),
        (b"GET http://there HTTP/1.1", "/"),
        (b"GET //orders HTTP/1.1", "//orders"),
        (b"GET /a%2Fb%2fc HTTP/1.1", "/a/b/c"),
        (b"OPTIONS * HTTP/1.1", "*"),
    ],
)
def test_every_form_of_a_target_has_a_path(line: bytes, path: str) -> None:
    [request] = read(line + b"\r\nHost: h\r\n\r\n")
    assert request.path == path


def test_a_body_belongs_to_its_request() -> None:
    first, second = read(OLD + GET)
    assert (first.body, first.keep_alive) == (b"abc", False)
    assert (second.path, second.body) == ("/a b", b"")


def test_a_body_in_chunks_is_put_together() -> None:
    first, second = read(CHUNKED + GET)
    assert first.body == b"abc0123456789"
    assert second.path == "/a b"


@examples(100)
@given(st.lists(st.integers(0, len(CHUNKED + OLD + GET)), max_size=8))
def test_requests_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    whole = CHUNKED + OLD + GET
    edges = [0, *sorted(cuts), len(whole)]
    assert read(*(whole[a:b] for a, b in pairwise(edges))) == read(whole)


@examples(50)
@given(st.integers(0, len(CHUNKED) - 1))
def test_half_a_request_is_waited_for(at: int) -> None:
    assert read(CHUNKED[:at]) == []


def test_empty_lines_before_a_request_are_forgiven() -> None:
    assert [request.path for request in read(b"\r\n" + GET + b"\r\n\r\n" + GET)] == ["/a b", "/a b"]


def test_a_client_that_expects_100_continue_gets_it() -> None:
    reader = RequestReader()
    head = HELLO + b"Expect: 100-continue\r\ncontent-length: 2\r\n\r\n"
    [event] = reader.feed(head)
    assert isinstance(event, Continue)
    [request] = reader.feed(b"ok")
    assert isinstance(request, Request)
    assert request.body == b"ok"


def test_no_100_continue_is_sent_when_the_body_has_arrived() -> None:
    [event] = RequestReader().feed(HELLO + b"Expect: 100-continue\r\ncontent-length: 2\r\n\r\nok")
    assert isinstance(event, Request)


@pytest.mark.parametrize(
    ("data", "spoken"),
    [
        (b"\x16\x03\x01\x02\x00\x01", "TLS"),
        (b"\x16", r"b'\x16'"),
        (b"AMQP\x03\x01\x00\x00", "AMQP"),
        (b"\r\n\x00\x00", r"b'\r\n\x00\x00'"),
        (b"SSH-2.0-here\r\n", r"b'SSH-2.0-here\r\n'"),
    ],
)
def test_bytes_that_cannot_become_a_request_are_refused_at_once(data: bytes, spoken: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(data)
    assert str(caught.value) == f"this port speaks plain HTTP, not {spoken}"


@pytest.mark.parametrize("data", [b"", b"\r", b"\r\n", b"\r\n\r\n\r", b"G", b"\r\nGET", b"GET ", b"GET \x00"])
def test_what_may_become_a_request_is_waited_for(data: bytes) -> None:
    assert read(data) == []


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ("1.1", None, True),
        ("1.1", "keep-alive", True),
        ("1.1", "Close", False),
        ("1.0", None, False),
        ("1.0", "Keep-Alive", True),
    ],
)
def test_a_connection_is_kept_as_the_version_says(version: str, connection: str | None, kept: bool) -> None:
    header = "" if connection is None else f"Connection: {connection}\r\n"
    [request] = read(f"GET / HTTP/{version}\r\nHost: h\r\n{header}\r\n".encode())
    assert request.keep_alive is kept


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, b"GET\r\n\r\n"),
        (400, b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n"),
        (400, b"GET / HTTP/1.1 x\r\nHost: h\r\n\r\n"),
        (400, b"G(T / HTTP/1.1\r\nHost: h\r\n\r\n"),
        (505, b"GET / SPDY/3\r\n\r\n"),
        (505, b"GET / HTTP/2.0\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"GET http://[ HTTP/1.1\r\nHost: h\r\n\r\n"),
        (400, b"GET /?" + b"a&" * 101 + b" HTTP/1.1\r\nHost: h\r\n\r\n"),
        (400, HELLO + b"no colon\r\n\r\n"),
        (400, HELLO + b"Folded: a\r\n b\r\n\r\n"),
        (400, HELLO + b"Spaced : a\r\n\r\n"),
        (400, HELLO + b"Torn: a\nb: c\r\n\r\n"),
        (400, HELLO + b"Host: other\r\n\r\n"),
        (400, HELLO + b"content-length: x\r\n\r\n"),
        (400, HELLO + b"content-length: -1\r\n\r\n"),
        (400, HELLO + b"content-length: 1\r\ncontent-length: 2\r\n\r\n"),
        (413, HELLO + b"content-length: 99999999\r\n\r\n"),
        (413, HELLO + b"content-length: " + b"9" * 5000 + b"\r\n\r\n"),
        (400, HELLO + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n"),
        (501, HELLO + b"transfer-encoding: gzip, chunked\r\n\r\n"),
        (417, HELLO + b"expect: a miracle\r\n\r\n"),
        (400, HELLO + b"transfer-encoding: chunked\r\n\r\nx\r\n"),
        (400, HELLO + b"transfer-encoding: chunked\r\n\r\n-1\r\n"),
        (400, HELLO + b"transfer-encoding: chunked\r\n\r\n2\r\nabc\r\n"),
        (400, HELLO + b"transfer-encoding: chunked\r\n\r\n" + b"1" * 2000),
        (413, HELLO + b"transfer-encoding: chunked\r\n\r\nFFFFFFF\r\n"),
        (431, HELLO + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 20_000),
        (431, b"x" * 70_000),
        (431, HELLO + b"a: " + b"b" * 70_000 + b"\r\n\r\n"),
    ],
)
def test_bytes_that_are_not_a_request_are_refused(status: int, data: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        read(data)
    assert caught.value.status == status


def test_requests_in_front_of_rubbish_are_read() -> None:
    events = RequestReader().feed(GET + GET + b"rubbish\r\n\r\n")
    assert [next(events), next(events)] == read(GET + GET)
    with pytest.raises(BadRequest):
        next(events)


@examples(200)
@given(st.binary(max_size=80).map(lambda data: data + b"\r\n\r\n"))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        read(data)
    except BadRequest:
        return


def test_a_response_says_how_long_it_is() -> None:
    written = write_response(Response(200, "text/plain", b"ok", (("allow", "GET"),)), keep_alive=True)
    head, _, body = written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"content-length: 2" in head
    assert b"allow: GET" in head
    assert body == b"ok"


def test_the_answer_to_head_has_everything_but_the_body() -> None:
    written = write_response(Response(200, "text/plain", b"ok"), keep_alive=False, with_body=False)
    assert b"content-length: 2" in written
    assert written.endswith(b"connection: close\r\n\r\n")


def test_a_response_without_a_type_has_no_type() -> None:
    assert b"content-type" not in write_response(Response(299, "", b""), keep_alive=True)
