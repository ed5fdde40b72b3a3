"""A changing folder, a real queue, and the unmodified Azure SDKs at both ends."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridEvent, SystemEventNames
from azure.servicebus import ServiceBusReceivedMessage, ServiceBusReceiveMode
from azure.servicebus.aio import ServiceBusClient
from servicebus_local.testing import LocalBus

from local.lake.__main__ import main
from local.lake.events import Container
from local.lake.sender import EventSender
from local.lake.watch import Watch

QUEUE = "blob-events"


class Process:
    """`python -m local.lake`, with its health page."""

    def __init__(self, running: asyncio.subprocess.Process, health: str) -> None:
        self.running, self.health = running, health

    @classmethod
    async def start(cls, bus: LocalBus, root: Path, *options: str) -> "Process":
        """Start it and learn its health address from its first line."""
        arguments = ["--root", root, "--container", "docs", "--checkpoint", root.with_name("checkpoint.json"), *options]
        arguments += ["--connection-string", bus.connection_string, "--interval", "0.05", "--health-port", "0"]
        command = [sys.executable, "-m", "local.lake", *map(str, arguments)]
        running = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        assert running.stderr is not None
        line = (await running.stderr.readline()).decode()
        assert "health on http" in line, line
        return cls(running, line.split()[-1])

    async def page_when(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The health page as soon as it says so."""
        async with asyncio.timeout(300), httpx.AsyncClient(verify=False) as http:
            while True:
                answer = await http.get(self.health)
                page: dict[str, Any] = answer.json()
                assert (answer.status_code == 200) == (page["status"] == "ready")
                if condition(page):
                    return page
                await asyncio.sleep(0.02)

    async def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Signal it; its exit code."""
        self.running.send_signal(how)
        await asyncio.wait_for(self.running.communicate(), 300)
        assert self.running.returncode is not None
        return self.running.returncode


@pytest.fixture
async def bus() -> AsyncIterator[LocalBus]:
    """A broker with one queue."""
    async with LocalBus(QUEUE) as found:
        yield found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty lake."""
    found = tmp_path / "lake"
    found.mkdir()
    return found.resolve()


def put(path: Path, content: str) -> None:
    """Write a file that is finished already, as far as its time tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    moment = time.time() - 10
    os.utime(path, (moment, moment))


async def receive(bus: LocalBus, count: int) -> list[ServiceBusReceivedMessage]:
    """The next `count` messages."""
    found: list[ServiceBusReceivedMessage] = []
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    async with (
        asyncio.timeout(300),
        ServiceBusClient.from_connection_string(bus.connection_string) as client,
        client.get_queue_receiver(QUEUE, receive_mode=mode) as receiver,
    ):
        while len(found) < count:
            found += await receiver.receive_messages(max_message_count=count - len(found), max_wait_time=5)
    return found


def body(message: ServiceBusReceivedMessage) -> dict[str, Any]:
    """The JSON of a message."""
    found: dict[str, Any] = json.loads(b"".join(message.body))
    return found


def cloud_event(message: ServiceBusReceivedMessage) -> "CloudEvent[dict[str, Any]]":
    """A message as the SDK reads it."""
    found: CloudEvent[dict[str, Any]] = CloudEvent.from_dict(body(message))
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Let everybody else run until it is so."""
    async with asyncio.timeout(300):
        while not condition():
            await asyncio.sleep(0)


def sent(messages: list[ServiceBusReceivedMessage]) -> list[str]:
    """`Created a.md`, one per message."""
    return [
        f"{body(one)['eventType'].split('.Blob')[1]} {body(one)['subject'].split('/blobs/')[1]}" for one in messages
    ]


@asynccontextmanager
async def watching(bus: LocalBus, root: Path) -> AsyncIterator[Watch]:
    """The same in this process, one scan at a time."""
    sender = EventSender(bus.connection_string, QUEUE)
    try:
        yield Watch(root, Container("docs"), root.with_name("checkpoint.json"), sender.send)
    finally:
        await sender.close()


async def test_put_overwrite_rename_and_delete_arrive_as_azure_sends_them(bus: LocalBus, root: Path) -> None:
    async with watching(bus, root) as watch:
        put(root / "hr/leave policy.md", "16 weeks")
        await watch.once()
        put(root / "hr/leave policy.md", "18 weeks")
        await watch.once()
        (root / "hr/leave policy.md").rename(root / "leave.md")
        await watch.once()
        (root / "leave.md").unlink()
        await watch.once()
    messages = await receive(bus, 4)
    events = [EventGridEvent.from_dict(body(one)) for one in messages]
    assert [one.event_type for one in events] == [
        SystemEventNames.StorageBlobCreatedEventName,
        SystemEventNames.StorageBlobCreatedEventName,
        SystemEventNames.StorageBlobRenamedEventName,
        SystemEventNames.StorageBlobDeletedEventName,
    ]
    assert [one.id for one in events] == [one.message_id for one in messages]
    assert events[0].data["eTag"] != events[1].data["eTag"]
    assert events[2].data["sourceUrl"].endswith("/docs/hr/leave%20policy.md")
    sequencers = [one.data["sequencer"] for one in events]
    assert sequencers == sorted(sequencers)
    properties = messages[0].application_properties
    assert properties is not None
    assert properties[b"aeg-event-type"] == b"Notification"


async def test_changes_while_it_was_stopped_are_sent_by_the_next_run_and_sigterm_stops_it(
    bus: LocalBus, root: Path
) -> None:
    for name in ("a.md", "b.md"):
        put(root / name, name)
    async with watching(bus, root) as watch:
        await watch.once()
    (root / "a.md").rename(root / "z.md")
    (root / "b.md").unlink()
    process = await Process.start(bus, root, "--schema", "cloudevents")
    page = await process.page_when(lambda page: page["status"] == "ready")
    assert await process.end() == 0
    assert (page["files"], page["sent"]) == (1, {"BlobDeleted": 1, "BlobRenamed": 1})
    messages = await receive(bus, 4)
    assert sent(messages[:2]) == ["Created a.md", "Created b.md"]
    deleted, renamed = (cloud_event(one) for one in messages[2:])
    assert deleted.type == SystemEventNames.StorageBlobDeletedEventName
    assert deleted.subject == "/blobServices/default/containers/docs/blobs/b.md"
    assert renamed.type == SystemEventNames.StorageBlobRenamedEventName
    assert messages[2].content_type == "application/cloudevents+json; charset=utf-8"


async def test_a_kill_repeats_events_and_loses_none(bus: LocalBus, root: Path) -> None:
    names = [f"{number:03d}.md" for number in range(150)]
    for name in names:
        put(root / name, name)
    process = await Process.start(bus, root)
    await until(lambda: bus.counts(QUEUE).active >= 20)
    assert await process.end(signal.SIGKILL) == -signal.SIGKILL
    before, remembered = bus.counts(QUEUE).active, root.with_name("checkpoint.json").exists()
    assert not remembered or before == len(names)
    async with watching(bus, root) as watch:
        await watch.once()
    messages = sent(await receive(bus, bus.counts(QUEUE).active))
    assert set(messages) == {f"Created {name}" for name in names}
    assert len(messages) == (before if remembered else before + len(names))


async def test_a_queue_that_is_unavailable_for_a_while_misses_nothing(bus: LocalBus, root: Path) -> None:
    put(root / "a.md", "one")
    process = await Process.start(bus, root)
    await process.page_when(lambda page: page["files"] == 1)
    bus.drop_connections()
    put(root / "b.md", "two")
    await process.page_when(lambda page: page["files"] == 2)
    await bus.stop_listening()
    put(root / "c.md", "three")
    await process.page_when(lambda page: "trouble" in page)
    await bus.listen_again()
    page = await process.page_when(lambda page: page["files"] == 3)
    assert "trouble" not in page
    assert await process.end() == 0
    messages = await receive(bus, bus.counts(QUEUE).active)
    assert list(dict.fromkeys(sent(messages))) == ["Created a.md", "Created b.md", "Created c.md"]


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (["--root", "missing"], "--root missing is not a folder"),
        (["--connection-string", "nonsense"], "--connection-string: "),
        (["--checkpoint", "damaged.json"], "damaged.json is damaged"),
        (["--health-port", "99999"], "choose another --health-port"),
    ],
)
def test_a_wrong_option_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, options: list[str], advice: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("damaged.json").write_text("{")
    given = ["--root", ".", "--container", "docs", "--checkpoint", "checkpoint.json", "--connection-string"]
    given += ["Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=a;SharedAccessKey=b", *options]
    assert main(given) == 1
    (line,) = caplog.messages
    assert advice in line
