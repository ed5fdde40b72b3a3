"""`ragbus queues`: the messages of every queue, counted."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ops import console
from ops.errors import CommandError
from ops.target import Target

if TYPE_CHECKING:
    from azure.servicebus.management import QueueProperties, ServiceBusAdministrationClient
    from rich.table import Table

_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class Depth:
    """The message counts of a queue."""

    queue: str
    active: int
    dead: int
    scheduled: int
    transfer_dead: int
    kilobytes: float


@contextmanager
def administration(target: Target) -> "Iterator[ServiceBusAdministrationClient]":
    """The SDK's management client; its errors are raised as `CommandError`."""
    from azure.core.exceptions import AzureError, ClientAuthenticationError, DeserializationError

    where = target.admin_url if target.is_emulator else target.host
    try:
        with _client(target) as client:
            yield client
    except ClientAuthenticationError as refused:
        raise CommandError(
            f"{target.host} refuses our credentials; counting messages needs the right to manage"
        ) from refused
    except DeserializationError as odd:
        cause: BaseException = odd
        while cause.__cause__ is not None:
            cause = cause.__cause__  # the SDK wraps errors in one another
        raise CommandError(
            f"the SDK cannot read the reply of the administration endpoint {where}: {_first_line(cause)}"
        ) from odd
    except ValueError as wrong:  # after DeserializationError, which is one
        raise CommandError(f"RAGBUS_SERVICEBUS_CONNECTION_STRING or RAGBUS_ADMIN_URL: {wrong}") from wrong
    except AzureError as unavailable:
        raise CommandError(
            f"the administration endpoint {where} does not answer: {_first_line(unavailable)}; is it running?"
        ) from unavailable


def depths(client: "ServiceBusAdministrationClient") -> list[Depth]:
    """Every queue, by name."""
    found = (
        Depth(
            queue=each.name,
            active=each.active_message_count or 0,
            dead=each.dead_letter_message_count or 0,
            scheduled=each.scheduled_message_count or 0,
            transfer_dead=each.transfer_dead_letter_message_count or 0,
            kilobytes=round((each.size_in_bytes or 0) / 1000, 1),
        )
        for each in client.list_queues_runtime_properties()
    )
    return sorted(found, key=lambda depth: depth.queue)


def properties(client: "ServiceBusAdministrationClient") -> "dict[str, QueueProperties]":
    """The settings of every queue, by name."""
    return {each.name: each for each in client.list_queues()}


def show(target: Target, *, watch: bool, as_json: bool) -> None:
    """Print the counts once, or repeatedly until Ctrl-C."""
    with administration(target) as client:
        if as_json:
            console.print_json([asdict(depth) for depth in depths(client)])
        elif watch:
            _watch(client)
        else:
            console.out().print(_table(depths(client)))


def _watch(client: "ServiceBusAdministrationClient") -> None:
    from rich.live import Live

    if not console.out().is_terminal:
        # A live display prints nothing into a pipe until it ends.
        while True:
            console.out().print(_table(depths(client)))
            sys.stdout.flush()
            time.sleep(_EVERY)
    with Live(_table(depths(client)), console=console.out(), auto_refresh=False) as live:
        while True:
            time.sleep(_EVERY)
            live.update(_table(depths(client)), refresh=True)


def _table(found: list[Depth]) -> "Table":
    from rich.table import Table

    table = Table("queue", box=None, header_style="bold", pad_edge=False)
    for name in ("active", "dead", "scheduled", "KB"):
        table.add_column(name, justify="right")
    for depth in found:
        dead = depth.dead + depth.transfer_dead
        style = "red" if dead else "bold" if depth.active else "dim"
        cells = (depth.active, dead, depth.scheduled, depth.kilobytes)
        table.add_row(depth.queue, *(str(cell) for cell in cells), style=style)
    return table


def _client(target: Target) -> "ServiceBusAdministrationClient":
    from azure.servicebus.management import ServiceBusAdministrationClient

    if not target.connection_string:
        from azure.identity import DefaultAzureCredential

        return ServiceBusAdministrationClient(target.host, DefaultAzureCredential())
    if not target.is_emulator:
        return ServiceBusAdministrationClient.from_connection_string(target.connection_string)
    from urllib.parse import urlsplit

    from azure.core.pipeline.transport import RequestsTransport

    class PlainHttp(RequestsTransport):  # type: ignore[misc]  # azure.core loads it lazily, untyped
        """The SDK speaks only https, the emulator only http."""

        def send(self, request: Any, **options: Any) -> Any:
            request.url = request.url.replace("https://", "http://", 1)
            return super().send(request, **options)

    there = target.connection_string.replace(target.host, urlsplit(target.admin_url).netloc)
    return ServiceBusAdministrationClient.from_connection_string(there, transport=PlainHttp(), retry_total=1)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
