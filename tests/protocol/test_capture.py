"""`ragbus capture` and `ragbus dlq ls` against a broker that holds more than a page."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from servicebus_local.testing import LocalBus

from ops.commands import capture, dlq
from ops.messages import Place
from ops.target import Target

COUNT = 300
ASK = Place("ask")


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    """A queue with more messages than a page."""
    with LocalBus("ask") as bus:
        with (
            ServiceBusClient.from_connection_string(bus.connection_string) as client,
            client.get_queue_sender("ask") as sender,
        ):
            sender.send_messages([ServiceBusMessage(b"{}", message_id=f"m{number}") for number in range(COUNT)])
        yield Target({"RAGBUS_SERVICEBUS_CONNECTION_STRING": bus.connection_string}, "a test")


def test_all_messages_are_captured_into_files_for_their_owner_alone(
    target: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "captured"
    before = os.umask(0o022)
    try:
        count = capture.capture(target, ASK, folder, request=None, condition=None, after=0, limit=None)
    finally:
        os.umask(before)
    files = list(folder.iterdir())
    assert count == len(files) == COUNT
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert f"{COUNT} messages of ask captured" in capsys.readouterr().err


def test_all_messages_are_listed_and_a_limit_says_what_it_leaves(
    target: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    dlq.list_dead(target, ASK, condition=None, after=0, limit=None, as_json=True)
    said = capsys.readouterr()
    assert len(json.loads(said.out)) == COUNT
    assert said.err == ""
    dlq.list_dead(target, ASK, condition=None, after=0, limit=100, as_json=True)
    said = capsys.readouterr()
    assert len(json.loads(said.out)) == 100
    assert said.err == "200 more are left: continue with --after 100, or leave out --limit\n"
