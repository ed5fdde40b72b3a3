"""Who the synchronous SDK says it is: connection strings, names and keys, signatures, tokens; and who is refused."""

from collections.abc import Iterator
from datetime import UTC, datetime
from time import time
from typing import Any

import pytest
from azure.core.credentials import AccessToken, AzureNamedKeyCredential, AzureSasCredential
from azure.servicebus import ServiceBusClient, ServiceBusMessage, parse_connection_string
from azure.servicebus.exceptions import (
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusConnectionError,
    ServiceBusError,
)

from servicebus_local.bus.topology import AccessRule
from servicebus_local.testing import ManualClock, Right, connection_string
from tests.protocol.counter import SOON, Counter, counter_at, take, together
from tests.protocol.desk import topology
from tests.protocol.peer import signature

POLICIES = {
    "": (AccessRule("everything", ("k1", "k2")), AccessRule("listens", ("kl",), frozenset({Right.LISTEN}))),
    "orders": (AccessRule("of-orders", ("ko",), frozenset({Right.SEND})),),
}


WALL = ManualClock()  # the clock by which tokens end


@pytest.fixture(scope="module")
def counter() -> Iterator[Counter]:
    with counter_at(topology(orders={}, other={}), keys=POLICIES, wall_clock=WALL) as counter:
        yield counter


@pytest.fixture(scope="module")
def clients(counter: Counter) -> Iterator["Clients"]:
    clients = Clients(counter)
    yield clients
    clients.close()


class Clients:
    """Clients with whatever credential a test wants."""

    def __init__(self, counter: Counter) -> None:
        self._port = counter.bus.port
        self._made: list[ServiceBusClient] = []

    def of(self, credential: Any, **options: Any) -> ServiceBusClient:
        """Connect with a credential, without TLS."""
        plain: dict[str, Any] = {"use_tls": False, "retry_total": 0, "socket_timeout": 0.02}
        return self._keep(ServiceBusClient(f"127.0.0.1:{self._port}", credential, **plain | options))

    def by(self, string: str) -> ServiceBusClient:
        """Connect by a connection string."""
        return self._keep(ServiceBusClient.from_connection_string(string, retry_total=0, socket_timeout=0.02))

    def _keep(self, client: ServiceBusClient) -> ServiceBusClient:
        self._made.append(client)
        return client

    def close(self) -> None:
        """Close all of them."""
        together(*(client.close for client in self._made))


def words(error: ServiceBusError) -> str:
    """Return what $cbs said; the SDK keeps it one exception further in."""
    return str(error.inner_exception)


def test_either_key_of_a_policy_and_a_signature_open_what_they_are_for(counter: Counter, clients: Clients) -> None:
    port, token = counter.bus.port, signature("orders", "k1", "everything")
    signed = f"Endpoint=sb://127.0.0.1:{port};SharedAccessSignature={token};UseDevelopmentEmulator=true"
    opened = [
        clients.by(connection_string("127.0.0.1", port, "k1", "everything")),
        clients.of(AzureNamedKeyCredential("everything", "k2")),
        clients.of(AzureSasCredential(token)),
        clients.by(signed),
    ]
    senders = [client.get_queue_sender("orders") for client in opened]
    receiver = opened[1].get_queue_receiver("orders")
    together(*(sender.__enter__ for sender in senders), receiver.__enter__)
    for number, sender in enumerate(senders):
        sender.send_messages(ServiceBusMessage(str(number)))
    assert take(receiver, 4) == ["0", "1", "2", "3"]


def test_whoever_may_do_one_thing_may_not_do_another(counter: Counter, clients: Clients) -> None:
    listens = clients.of(AzureNamedKeyCredential("listens", "kl"))
    sends = clients.of(AzureNamedKeyCredential("of-orders", "ko"))
    narrowed = clients.by(counter.bus.connection_string_with(Right.SEND, entity="orders"))
    _, _, _, no_sending, no_listening, elsewhere, narrow = together(
        narrowed.get_queue_sender("orders").__enter__,
        listens.get_queue_receiver("orders").__enter__,
        sends.get_queue_sender("orders").__enter__,
        lambda: counter.refusal(listens.get_queue_sender("orders")),
        lambda: counter.refusal(sends.get_queue_receiver("orders")),
        lambda: counter.refusal(sends.get_queue_sender("other")),
        lambda: counter.refusal(narrowed.get_queue_receiver("orders")),
    )
    assert isinstance(no_sending, ServiceBusAuthorizationError)
    assert "'Send' claim(s) are required" in str(no_sending)
    for refused in (no_listening, narrow):
        assert isinstance(refused, ServiceBusAuthorizationError)
        assert "'Listen' claim(s) are required" in str(refused)
    assert isinstance(elsewhere, ServiceBusAuthenticationError)


class Entra:
    """A credential as Microsoft Entra's are."""

    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        """Return what looks like a token."""
        return AccessToken("eyJhbGciOi.eyJhdWQiOi.c2ln", int(datetime.now(UTC).timestamp()) + 3600)


def test_a_wrong_credential_and_an_unknown_queue_are_refused_in_clear_words(counter: Counter, clients: Clients) -> None:
    right = clients.of(AzureNamedKeyCredential("everything", "k1"))
    refused = {
        "401: InvalidSignature": clients.of(AzureNamedKeyCredential("everything", "guess")).get_queue_sender("orders"),
        "401: no policy": clients.of(AzureNamedKeyCredential("nobody", "k1")).get_queue_sender("orders"),
        "401: expired": clients.of(AzureSasCredential(expired())).get_queue_sender("orders"),
        "401: other": clients.of(AzureSasCredential(signature("other", "k1", "everything"))).get_queue_sender("orders"),
        "401: JSON Web Token": clients.of(Entra()).get_queue_sender("orders"),
        "404: sender": right.get_queue_sender("nowhere"),
        "404: receiver": right.get_queue_receiver("nowhere"),
    }
    refusals = [lambda h=handler: counter.refusal(h) for handler in refused.values()]
    told = dict(zip(refused, together(*refusals), strict=True))
    for case, error in told.items():
        assert isinstance(error, ServiceBusAuthenticationError)
        assert case[:3] in words(error) or case == "401: expired"
    # The SDK looks at the date as well, and may be the first to say so.
    assert any(said in words(told["401: expired"]) for said in SAID)
    assert "InvalidAudience" in words(told["401: other"])
    assert "JSON Web Token" in words(told["401: JSON Web Token"])
    assert "'nowhere' could not be found" in words(told["404: receiver"])


SAID = ("ExpiredToken", "Authentication Expired")


def expired() -> str:
    return signature("orders", "k1", "everything", lasts=-10)


def test_a_connection_string_can_be_taken_apart(counter: Counter) -> None:
    parsed = parse_connection_string(f"{counter.bus.connection_string};EntityPath=orders")
    assert parsed.fully_qualified_namespace == f"127.0.0.1:{counter.bus.port}"
    assert (parsed.shared_access_key_name, parsed.entity_path) == ("RootManageSharedAccessKey", "orders")


@pytest.mark.parametrize("string", ["", "Endpoint=sb://x", "Endpoint=sb://x;SharedAccessKeyName=n", "nonsense"])
def test_a_string_that_says_too_little_is_refused_by_the_sdk(string: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)connection string|present"):
        ServiceBusClient.from_connection_string(string)


def test_without_a_broker_there_is_no_connection(clients: Clients) -> None:
    with pytest.raises(ServiceBusConnectionError):
        clients.by(connection_string("127.0.0.1", 1)).get_queue_sender("orders").__enter__()


def test_a_token_may_be_renewed_and_must_be(counter: Counter, clients: Clients) -> None:
    credential = AzureSasCredential(signature("orders", "k1", "everything", lasts=300))
    patient = clients.of(credential, retry_total=2, retry_backoff_factor=0.01)
    idle = clients.of(AzureSasCredential(signature("orders", "k1", "everything", lasts=300)))
    sender, receiver = patient.get_queue_sender("orders"), idle.get_queue_receiver("orders")
    together(sender.__enter__, receiver.__enter__)
    WALL.now = time() + 301  # the signatures were dated by real time
    counter.bus.advance(301)
    credential.update(signature("orders", "k1", "everything", lasts=3600))
    with pytest.raises(ServiceBusConnectionError, match=r"force detached\. Code: RenewToken"):
        receiver.receive_messages(1, max_wait_time=SOON)
    sender.send_messages(ServiceBusMessage("with a fresh token"))
    assert counter.bus.purge("orders") == 1
