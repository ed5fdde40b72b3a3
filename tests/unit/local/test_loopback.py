"""Which requests a stand-in on loopback refuses; over sockets in test_llm_sdk.py and test_vectors_engine.py."""

from typing import Any

import pytest

from local.loopback import guarded


async def status(host: str, *headers: tuple[str, str], kind: str = "http") -> int:
    """What a server on `host` answers to a request with `headers`."""
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        raise AssertionError("the body must not be read")

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers]
    await guarded(app, host)({"type": kind, "headers": raw}, receive, send)
    return int(sent[0]["status"])


@pytest.mark.parametrize("host", ["127.0.0.1:6333", "127.0.0.1", "localhost:80", "[::1]:6333", "127.9.9.9"])
async def test_this_machine_is_answered(host: str) -> None:
    assert await status("127.0.0.1", ("host", host)) == 200
    assert await status("::1", ("host", host), ("origin", f"http://{host}")) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:6333", "10.0.0.1", "", "[oops", "0.0.0.0"],
)
async def test_another_name_is_refused(host: str) -> None:
    assert await status("127.0.0.1", ("host", host)) == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example"])
async def test_a_page_of_another_site_is_refused(origin: str) -> None:
    assert await status("127.0.0.1", ("host", "127.0.0.1:8090"), ("origin", origin)) == 403


async def test_a_second_host_does_not_help() -> None:
    assert await status("127.0.0.1", ("host", "127.0.0.1"), ("host", "evil.example")) == 403


async def test_in_a_network_of_containers_any_name_is_answered() -> None:
    assert await status("0.0.0.0", ("host", "llm:8090")) == 200
