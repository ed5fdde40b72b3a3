"""Credentials: which policy, key or signature opens what to the SDK, and what happens when one expires."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from azure.core.credentials import AccessToken, AzureNamedKeyCredential, AzureSasCredential
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import (
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusConnectionError,
    ServiceBusError,
)

from servicebus_local.bus.topology import AccessRule, Right
from servicebus_local.testing import LocalBus, ManualClock
from tests.protocol.peer import Socket, signature
from tests.protocol.queue_client import SOON

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = {
    "UserConfig": {
        "Namespaces": [
            {
                "Name": "sbemulatorns",
                "Queues": [{"Name": "orders"}, {"Name": "other"}],
                "Topics": [{"Name": "news", "Subscriptions": [{"Name": "all"}]}],
            }
        ],
        "Logging": {"Type": "Console"},
    }
}
SEND, LISTEN = frozenset({Right.SEND}), frozenset({Right.LISTEN})
POLICIES = {
    "": (AccessRule("sends", ("ks",), SEND), AccessRule("listens", ("kl",), LISTEN)),
    "orders": (AccessRule("of-orders", ("ko",)),),
    "news": (AccessRule("of-news", ("kn",), LISTEN),),
}
Handler = ServiceBusSender | ServiceBusReceiver


def told(error: ServiceBusError) -> str:
    """Return what $cbs said; the SDK keeps it one exception further in."""
    return str(error.inner_exception)


class GuardedBus:
    """A bus, and clients with whatever credential a test wants."""

    def __init__(self, bus: LocalBus) -> None:
        self.bus = bus
        self._clients: list[ServiceBusClient] = []
        self._handlers: list[Handler] = []

    def client(self, credential: Any, **options: Any) -> ServiceBusClient:
        """Connect with a credential, without TLS."""
        host = f"127.0.0.1:{self.bus.port}"
        plain: dict[str, Any] = {"use_tls": False, "retry_total": 0, "socket_timeout": 0.02}
        self._clients.append(ServiceBusClient(host, credential, **plain | options))
        return self._clients[-1]

    async def open(self, *handlers: Handler) -> None:
        """Open what must be let in."""
        self._handlers += handlers
        await asyncio.gather(*(handler.__aenter__() for handler in handlers))

    async def refused(self, *handlers: Handler) -> list[ServiceBusError]:
        """Open what must be refused; return the errors."""
        opened = await asyncio.gather(*map(self._refused, handlers))
        return list(opened)

    async def _refused(self, handler: Handler) -> ServiceBusError:
        self._handlers.append(handler)
        with pytest.raises(ServiceBusError) as caught:
            await handler.__aenter__()
        return caught.value

    async def close(self) -> None:
        """Close everything at once."""
        await asyncio.gather(*(handler.close() for handler in self._handlers))
        await asyncio.gather(*(client.close() for client in self._clients))


@asynccontextmanager
async def door_to(**options: Any) -> AsyncIterator[GuardedBus]:
    """Start a bus with a guarded."""
    async with LocalBus(CONFIG, **options) as bus:
        guarded = GuardedBus(bus)
        try:
            yield guarded
        finally:
            await guarded.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded() -> AsyncIterator[GuardedBus]:
    async with door_to(keys=POLICIES) as guarded:
        yield guarded


async def test_a_client_with_send_alone_cannot_receive(guarded: GuardedBus) -> None:
    client = guarded.client(AzureNamedKeyCredential("sends", "ks"))
    sender = client.get_queue_sender("orders")
    _, [refused] = await asyncio.gather(guarded.open(sender), guarded.refused(client.get_queue_receiver("orders")))
    assert isinstance(refused, ServiceBusAuthorizationError)
    assert "'Listen' claim(s) are required" in str(refused)
    [number] = await sender.schedule_messages(ServiceBusMessage("later"), datetime.now(UTC) + timedelta(days=1))
    await sender.cancel_scheduled_messages(number)


async def test_a_client_with_listen_alone_cannot_send(guarded: GuardedBus) -> None:
    client = guarded.client(AzureNamedKeyCredential("listens", "kl"))
    receiver = client.get_subscription_receiver("news", "all")
    _, [refused] = await asyncio.gather(guarded.open(receiver), guarded.refused(client.get_topic_sender("news")))
    assert isinstance(refused, ServiceBusAuthorizationError)
    assert "'Send' claim(s) are required" in str(refused)
    assert await receiver.peek_messages() == []


async def test_the_policy_of_an_entity_opens_it_and_nothing_else(guarded: GuardedBus) -> None:
    client = guarded.client(AzureNamedKeyCredential("of-orders", "ko"))
    sender, receiver = client.get_queue_sender("orders"), client.get_queue_receiver("orders")
    _, errors = await asyncio.gather(
        guarded.open(sender, receiver),
        guarded.refused(client.get_queue_sender("other"), client.get_topic_sender("news")),
    )
    for error in errors:
        assert isinstance(error, ServiceBusAuthenticationError)
        assert "401" in told(error)
        assert "InvalidSignature" in told(error)
    await sender.send_messages(ServiceBusMessage("x"))
    [message] = await receiver.receive_messages(1, max_wait_time=SOON)
    await receiver.complete_message(message)


async def test_the_policy_of_a_topic_counts_for_its_subscriptions(guarded: GuardedBus) -> None:
    client = guarded.client(AzureNamedKeyCredential("of-news", "kn"))
    _, [refused] = await asyncio.gather(
        guarded.open(client.get_subscription_receiver("news", "all")), guarded.refused(client.get_topic_sender("news"))
    )
    assert "'Send' claim(s) are required" in str(refused)


async def test_a_signature_opens_what_it_was_made_for(guarded: GuardedBus) -> None:
    client = guarded.client(AzureSasCredential(signature("orders")))
    _, [refused] = await asyncio.gather(
        guarded.open(client.get_queue_sender("orders")), guarded.refused(client.get_queue_sender("other"))
    )
    assert isinstance(refused, ServiceBusAuthenticationError)
    assert "InvalidAudience" in told(refused)


class Entra:
    """A credential as Microsoft Entra's are."""

    async def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        """Return what looks like a token."""
        return AccessToken("eyJhbGciOi.eyJhdWQiOi.c2ln", int(datetime.now(UTC).timestamp()) + 3600)

    async def __aenter__(self) -> "Entra":
        """Nothing to open."""
        return self

    async def __aexit__(self, *_details: object) -> None:
        """Nothing to close."""


async def test_a_token_of_entra_is_refused_in_clear_words(guarded: GuardedBus) -> None:
    client = guarded.client(Entra())
    [refused] = await guarded.refused(client.get_queue_sender("orders"))
    assert isinstance(refused, ServiceBusAuthenticationError)
    assert "JSON Web Token, which the local broker cannot check" in told(refused)


@pytest.mark.parametrize(("key", "attached"), [("kl", True), ("guess", False)])
async def test_other_clients_may_log_in_with_name_and_key(guarded: GuardedBus, key: str, attached: bool) -> None:
    socket = await Socket.connect(guarded.bus.port, plain=("listens", key))
    name = socket.peer.receive_from("orders")
    await socket.until(lambda: socket.peer.attached or socket.peer.logged_in is False)
    assert (name in socket.peer.attached) is attached
    await socket.close()


# --------------------------------------------------------------------------- when a token expires


@pytest_asyncio.fixture(loop_scope="module")
async def later() -> AsyncIterator[GuardedBus]:
    """A bus on which all time is moved by hand, that of the tokens too."""
    clock = ManualClock()
    async with door_to(clock=clock, wall_clock=clock) as guarded:
        yield guarded


async def test_a_receiver_comes_back_with_a_fresh_token(later: GuardedBus) -> None:
    credential = AzureSasCredential(signature("orders", lasts=300))
    client = later.client(credential, retry_total=2, retry_backoff_factor=0.01)
    sender, receiver = client.get_queue_sender("orders"), client.get_queue_receiver("orders")
    await later.open(sender, receiver)
    await later.bus.advance(301)
    credential.update(signature("orders", lasts=3600))
    await sender.send_messages(ServiceBusMessage("after"))
    [message] = await receiver.receive_messages(1, max_wait_time=SOON)
    await receiver.complete_message(message)
    assert str(message) == "after"


async def test_a_client_without_a_fresh_token_is_detached_and_then_refused(later: GuardedBus) -> None:
    client = later.client(AzureSasCredential(signature("orders", lasts=300)))
    receiver = client.get_queue_receiver("orders")
    await later.open(receiver)
    await later.bus.advance(301)
    with pytest.raises(ServiceBusConnectionError, match=r"force detached\. Code: RenewToken"):
        await receiver.receive_messages(1, max_wait_time=SOON)
    [refused] = await later.refused(client.get_queue_receiver("orders"))
    assert isinstance(refused, ServiceBusAuthenticationError)
    assert "ExpiredToken" in told(refused)
