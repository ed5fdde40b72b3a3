"""Every misbehaviour of `local.llm`, over a real socket: it happens, and the server lives on."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from local.llm.misbehaviours import MISBEHAVIOURS

CHAT = {
    "model": "m",
    "max_tokens": 50,
    "messages": [
        {
            "role": "user",
            "content": "[[passage 1 8f3a2c41]]\nSpain has 16 weeks of leave.\n[[end 1 8f3a2c41]]\n"
            "Question: How many weeks of leave has Spain?",
        }
    ],
}
STREAM = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
INPUTS = {"model": "e", "input": ["one", "two"], "dimensions": 4, "encoding_format": "base64"}
# They differ from what is right in a stream only, in how the bytes are cut only, or not for everybody.
LIKE_A_BODY = {
    "error-after", "text-after-finish", "usage-null-first", "async-filter", "no-done", "done-only", "gzip", "drip",
}  # fmt: skip
HANGING = {name for name, how in MISBEHAVIOURS.items() if how.stop and how.stop.how == "open"}
SLOW = {*HANGING, "drip"}


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    """A server for the module, and a client of it."""
    server = subprocess.Popen([sys.executable, "-m", "local.llm", "--port", "0"], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    found = re.search(r"http://\S+", server.stderr.readline())
    assert found
    with httpx.Client(base_url=found[0], headers={"api-key": "any"}, timeout=300) as client:
        yield client
    server.terminate()
    server.communicate(timeout=300)


def answer(http: httpx.Client, path: str, body: dict[str, Any], **fault: Any) -> str:
    """Status and text of a call, without what differs from call to call; or how it broke."""
    http.post("/control/faults", json=[fault] if fault else []).raise_for_status()
    try:
        found = http.post(path, json=body)
    except httpx.TransportError as error:
        return type(error).__name__
    text = re.sub(r'"(id|created)": ("[^"]*"|\d+)', "", found.text)
    return f"{found.status_code} {found.headers['content-type']} {text}"


@pytest.fixture(scope="module")
def right(http: httpx.Client) -> dict[str, str]:
    """What each body is answered with when nothing goes wrong."""
    calls = {"chat": ("/v1/chat/completions", CHAT), "stream": ("/v1/chat/completions", STREAM)}
    calls["embeddings"] = ("/v1/embeddings", INPUTS)
    found = {name: answer(http, path, body) for name, (path, body) in calls.items()}
    assert all(text.startswith("200") for text in found.values())
    return found


@pytest.mark.parametrize("name", [name for name in MISBEHAVIOURS if name not in SLOW])
def test_a_misbehaviour_is_seen_by_the_caller(http: httpx.Client, right: dict[str, str], name: str) -> None:
    if name.startswith("emb-"):
        calls = [("embeddings", "/v1/embeddings", INPUTS)]
    else:
        calls = [("stream", "/v1/chat/completions", STREAM)]
        if name not in LIKE_A_BODY and not name.startswith("sse-"):
            calls.append(("chat", "/v1/chat/completions", CHAT))
    for kind, path, body in calls:
        same = answer(http, path, body, fault=name) == right[kind]
        assert same is (name in ("sse-split", "sse-lump", "gzip"))
    assert http.get("/control/calls").json()[-1]["fault"] == name


@pytest.mark.parametrize("name", sorted(HANGING))
def test_a_hanging_call_is_open_until_the_caller_hangs_up(http: httpx.Client, name: str) -> None:
    http.post("/control/faults", json=[{"fault": name}])
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/chat/completions", json=STREAM, timeout=httpx.Timeout(300, read=0.5))
    while not (call := http.get("/control/calls").json()[-1])["stopped"]:
        time.sleep(0.01)
    assert call["status"] == (499 if name == "hang" else 200)
    assert http.get("/health").status_code == 200


def test_a_reset_connection_is_not_a_closed_one(http: httpx.Client) -> None:
    found = [answer(http, "/v1/chat/completions", STREAM, fault=name) for name in ("reset-mid", "cut-mid")]
    assert found == ["ReadError", "RemoteProtocolError"]


def test_a_question_and_a_seed_choose_the_calls(http: httpx.Client) -> None:
    assert answer(http, "/v1/chat/completions", CHAT, fault="500", question="Austria").startswith("200")
    assert answer(http, "/v1/chat/completions", CHAT, fault="500", question="Spain").startswith("500")

    def drawn(seed: int) -> list[bool]:
        http.post("/control/faults", json=[{"fault": "500", "probability": 0.5, "seed": seed}])
        return [http.post("/v1/chat/completions", json=CHAT).status_code == 500 for _ in range(24)]

    first = drawn(7)
    assert drawn(7) == first
    assert drawn(8) != first
    assert 0 < sum(first) < 24


def test_the_names_are_listed(http: httpx.Client) -> None:
    assert http.get("/control/faults/names").json() == list(MISBEHAVIOURS)
    unknown = http.post("/control/faults", json=[{"fault": "htlm"}])
    assert (unknown.status_code, "--list-faults" in unknown.text) == (400, True)


def test_what_arrived_is_shown(http: httpx.Client) -> None:
    answer(http, "/v1/chat/completions", CHAT)
    assert http.get("/control/calls").json()[-1]["parameters"] == {"model": "m", "max_tokens": 50}
    assert json.dumps(CHAT["messages"]) not in http.get("/control/calls").text
