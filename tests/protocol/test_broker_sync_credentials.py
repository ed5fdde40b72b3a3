"""Who the synchronous SDK says it is: connection strings, names and keys, signatures, tokens; and who is refused."""

from collections.abc import Iterator
from datetime import UTC, datetime
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

from local.broker.bus.topology import AccessRule
from local.broker.testing import ManualClock, Right, connection_string
from tests.protocol.broker_counter import SOON, Counter, counter_at, take, together
from tests.protocol.broker_desk import topology
from tests.protocol.broker_peer import signature

POLICIES = {
    "": (AccessRule("everything", ("k1", "k2")), AccessRule("listens", ("kl",), frozenset({Right.LISTEN}))),
    "orders": (AccessRule("of-orders", ("ko",), frozenset({Right.SEND})),),
}


@pytest.fixture(scope="module")
def counter() -> Iterator[Counter]:
    with counter_at(topology(orders={}, other={}), keys=POLICIES) as counter:
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


def test_either_key_of_a_policy_opens_the_namespace(counter: Counter, clients: Clients) -> None:
    by_string = clients.by(connection_string("127.0.0.1", counter.bus.port, "k1", "everything"))
    by_name = clients.of(AzureNamedKeyCredential("everything", "k2"))
    sender, receiver = by_string.get_queue_sender("orders"), by_name.get_queue_receiver("orders")
    together(sender.__enter__, receiver.__enter__)
    sender.send_messages(ServiceBusMessage("x"))
    assert take(receiver, 1) == ["x"]


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


def test_a_wrong_credential_is_refused_in_clear_words(counter: Counter, clients: Clients) -> None:
    refused = {
        "invalid signature": clients.of(AzureNamedKeyCredential("everything", "guess")),
        "ExpiredToken": clients.of(AzureSasCredential(signature("orders", "k1", "everything", lasts=-10))),
        "InvalidAudience": clients.of(AzureSasCredential(signature("other", "k1", "everything"))),
        "JSON Web Token": clients.of(Entra()),
        "nobody": clients.of(AzureNamedKeyCredential("nobody", "k1")),
    }
    refusals = [lambda c=client: counter.refusal(c.get_queue_sender("orders")) for client in refused.values()]
    for expected, error in zip(refused, together(*refusals), strict=True):
        assert isinstance(error, ServiceBusAuthenticationError), error
        assert "401" in words(error)
        if expected != "nobody":
            assert expected in words(error)


def test_a_signature_opens_what_it_was_made_for(counter: Counter, clients: Clients) -> None:
    token = signature("orders", "k1", "everything")
    by_credential = clients.of(AzureSasCredential(token)).get_queue_sender("orders")
    host = f"Endpoint=sb://127.0.0.1:{counter.bus.port};SharedAccessSignature={token};UseDevelopmentEmulator=true"
    by_string = clients.by(host).get_queue_receiver("orders")
    together(by_credential.__enter__, by_string.__enter__)
    by_credential.send_messages(ServiceBusMessage("x"))
    assert take(by_string, 1) == ["x"]


def test_an_unknown_queue_is_refused_to_everybody(counter: Counter, clients: Clients) -> None:
    client = clients.of(AzureNamedKeyCredential("everything", "k1"))
    errors = together(
        lambda: counter.refusal(client.get_queue_sender("nowhere")),
        lambda: counter.refusal(client.get_queue_receiver("nowhere")),
    )
    for error in errors:
        assert isinstance(error, ServiceBusAuthenticationError)
        assert "404" in words(error)
        assert "'nowhere' could not be found" in words(error)


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


def test_a_token_may_be_renewed_and_must_be() -> None:
    clock = ManualClock()
    with counter_at(topology(orders={}), wall_clock=clock) as counter:
        credential = AzureSasCredential(signature("orders", lasts=300))
        clients = Clients(counter)
        patient = clients.of(credential, retry_total=2, retry_backoff_factor=0.01)
        idle = clients.of(AzureSasCredential(signature("orders", lasts=300)))
        sender, receiver = patient.get_queue_sender("orders"), idle.get_queue_receiver("orders")
        together(sender.__enter__, receiver.__enter__)
        clock.now += 301
        credential.update(signature("orders", lasts=3600))
        sender.send_messages(ServiceBusMessage("with a fresh token"))
        with pytest.raises(ServiceBusConnectionError, match=r"force detached\. Code: RenewToken"):
            receiver.receive_messages(1, max_wait_time=SOON)
        clients.close()
