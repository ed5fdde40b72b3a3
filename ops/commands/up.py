"""`ragbus up`: starts the stack and prints how to use it."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from local.stack import CannotStart, Died, Stack, from_environment
from local.stack.recipe import inherited
from local.stack.signals import run
from local.stack.stack import EXAMPLE
from ops import console
from ops.connect import LAPTOP_KEY
from ops.errors import CommandError

if TYPE_CHECKING:
    from rich.table import Table

_CURL = """\
curl -s '{gateway}/v1/onboarding/ask?wait=30' \\
     -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
     -d '{{"question": "What are the core hours for remote workers?"}}'"""
_PYTHON = """\
import json, uuid
from azure.servicebus import ServiceBusClient, ServiceBusMessage
bus = ServiceBusClient.from_connection_string("{connection_string}")
session = str(uuid.uuid4())
with bus.get_queue_sender("ask") as sender:
    sender.send_messages(ServiceBusMessage(
        json.dumps({{"question": "What are the core hours for remote workers?"}}), subject="ask.v1",
        message_id=str(uuid.uuid4()), reply_to="answers", reply_to_session_id=session))
with bus.get_queue_receiver("answers", session_id=session) as receiver:
    for message in receiver.receive_messages(max_wait_time=60):
        print(json.loads(str(message))["text"]); receiver.complete_message(message)"""


def up(folder: Path, *, config: Path | None, free_ports: bool, reset: bool) -> int:
    """Run until stopped: 0; 1 when a part died. Raises `CommandError` when it cannot start."""
    if os.environ.get("RAGBUS_SERVICEBUS_NAMESPACE") or os.environ.get("RAGBUS_SERVICEBUS_CONNECTION_STRING"):
        console.err("note: the stack starts its own broker and ignores RAGBUS_SERVICEBUS_… of this terminal")
    try:
        run(_up(folder, config=config or EXAMPLE, free_ports=free_ports, reset=reset))
    except CannotStart as error:
        raise CommandError(str(error).replace("use --free-ports", "use `.venv/bin/ragbus up --free-ports`")) from error
    except Died as error:
        console.err(f"ragbus: stopped everything, because {error}")
        return 1
    console.err("stopped; nothing is running")
    return 0


async def _up(folder: Path, *, config: Path, free_ports: bool, reset: bool) -> None:
    stack = Stack(
        folder,
        config=config,
        ports="free" if free_ports else "usual",
        reset=reset,
        instead=from_environment(),
        starting=lambda: console.err("starting …"),
        progress=lambda name, seconds: console.err(f"  {name:<10} ready after {seconds:4.1f} s"),
    )
    first_time = not stack.folder.data.exists() or reset
    async with stack:
        _explain(stack)
        if not first_time:
            await stack.during(_catch_up(inherited(stack.env())))
        await stack.wait()


async def _catch_up(environment: Mapping[str, str]) -> None:
    """Send events for documents that the last run may not have indexed: a power cut loses the queues' last moment.

    In a process of its own, so that its imports do not stay in our memory.
    """
    command = (sys.executable, "-m", "ops", "index", "reconcile")
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=DEVNULL, stderr=PIPE)
    try:
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        console.err(f"cannot compare the lake with the index: {said.decode().strip()}")


def _explain(stack: Stack) -> None:
    out = console.out()
    out.print(_table(stack))
    if stack.config == EXAMPLE.resolve():
        out.print("\n[bold]Ask over HTTP[/bold]")
        print_plain(_CURL.format(gateway=stack.gateway_url, key=LAPTOP_KEY))
        out.print("\n[bold]Ask over the queue[/bold], with the plain SDK")
        print_plain(_PYTHON.format(connection_string=stack.connection_string))
    else:
        print_plain(f"\nCallers, use cases and models: {stack.config}")
    out.print("\nOr in another terminal: [bold]ragbus ask[/bold] '…', [bold]ragbus queues[/bold] --watch")
    out.print("Indexing may take a few more seconds; [bold]ragbus index status[/bold] lists the finished documents.")
    out.print(f"Edit the documents in {stack.lake}: the index and the answers follow. Ctrl-C stops everything.")


def print_plain(text: str) -> None:
    """Print text for copying: unwrapped, without markup."""
    console.out().print(text, soft_wrap=True, markup=False, highlight=False)


def _table(stack: Stack) -> "Table":
    from rich.table import Table

    at = stack.addresses
    known = {
        "broker": f"amqp://127.0.0.1:{at.broker}, administration {at.admin_url}",
        "redis": at.redis_url,
        "vectors": at.qdrant_url,
        "llm": at.llm_url,
        **{name: f"http://127.0.0.1:{port}, health {stack.health_url(name)}" for name, port in at.http.items()},
    }
    table = Table("part", "address", "process", box=None, header_style="bold", pad_edge=False)
    for name, child in stack.children.items():
        table.add_row(name, known.get(name) or f"health {stack.health_url(name)}", str(child.pid))
    table.add_row("documents", str(stack.lake), "")
    table.add_row("logs", str(stack.folder.logs), "")
    return table
