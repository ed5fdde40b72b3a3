"""The poison corpus through the real SDK and our adapter to the gateway: one readable line per message."""

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import MessageSizeExceededError
from servicebus_local.testing import LocalBus

from services.gateway.ask_consumer import AskConsumer
from services.gateway.outcome_consumer import OutcomeConsumer
from services.indexer.events import read_events
from shared.bus.port import MessageTooLarge, Outgoing, Received
from shared.bus.servicebus import ServiceBus, ServiceBusAddress
from shared.contracts.generate import GenerateAnswer
from shared.contracts.retrieve import RetrievePassages
from shared.errors import Reason, Unprocessable
from shared.redis import FailFastRedis
from shared.worker.outbox import handed_back, retry_copy
from tests.poison.corpus import ASKS, LARGE, Poison
from tests.poison.internal import STRAYS
from tests.poison.messages import annotated, post
from tests.support.gateway import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT = timedelta(seconds=300)
DECODERS: Mapping[str, Callable[[Received], object]] = {
    "retrieve": lambda message: RetrievePassages.read(message.subject, message.body),
    "generate": lambda message: GenerateAnswer.read(message.subject, message.body),
    "outcomes": OutcomeConsumer.decode,
    "blob-events": lambda message: read_events(message.body),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker() -> AsyncIterator[LocalBus]:
    async with LocalBus("ask") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus(broker: LocalBus) -> AsyncIterator[ServiceBus]:
    connected = ServiceBus(ServiceBusAddress(broker.connection_string))
    yield connected
    await connected.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def arrived(broker: LocalBus, bus: ServiceBus) -> Mapping[str, Received]:
    """Every poison as our adapter receives it, by its name."""
    async with ServiceBusClient.from_connection_string(broker.connection_string) as client:
        await post(client, "ask", map(annotated, ASKS))
    inbox, found = bus.inbox("ask"), {}
    for poison in ASKS:
        delivery = await inbox.receive(WAIT)
        assert delivery is not None, f"{poison.name} did not arrive"
        found[poison.name] = delivery.message
        await delivery.complete()
    await inbox.close()
    return found


@pytest.fixture(scope="module")
def ask_consumer() -> AskConsumer:
    """The gateway's ask consumer, which needs no Redis until it handles a message."""
    return Gateway(FailFastRedis("redis://127.0.0.1:1/0")).ask_consumer


async def test_every_poison_is_read_or_refused_with_its_reason_and_a_sentence(
    arrived: Mapping[str, Received], ask_consumer: AskConsumer
) -> None:
    ended = {poison.name: end(ask_consumer.decode, arrived[poison.name]) for poison in ASKS}
    assert {name: reason for name, (reason, _) in ended.items()} == {poison.name: poison.reason for poison in ASKS}
    details = {name: detail for name, (reason, detail) in ended.items() if reason}
    assert {name: detail for name, detail in details.items() if not 0 < len(detail) < 1_000} == {}
    read = {poison.name: poison.identity for poison in ASKS if poison.reason is None}
    assert {name: ask_consumer.decode(arrived[name]).arrival.message_id for name in read} == read


def end(decode: Callable[[Received], object], message: Received) -> tuple[Reason | None, str]:
    """Why a message is refused, in a word and in a sentence; None: it is not."""
    try:
        decode(message)
    except Unprocessable as refused:
        return refused.reason, refused.detail
    return None, ""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("value: a map", "the body is an AMQP value, not JSON: send a data section"),
        ("value: nothing", "the body is an AMQP value, not JSON: send a data section"),
        ("sequence", "the body is an AMQP sequence, not JSON: send a data section"),
        ("a string", "the body is a JSON string, not a JSON object: is your ask.v1 encoded twice?"),
    ],
)
async def test_what_senders_in_other_languages_get_wrong_is_named(
    name: str, said: str, arrived: Mapping[str, Received], ask_consumer: AskConsumer
) -> None:
    with pytest.raises(Unprocessable) as refused:
        ask_consumer.decode(arrived[name])
    assert refused.value.detail.startswith(said)


async def test_a_copy_of_every_poison_can_be_sent_for_a_retry_and_when_a_worker_leaves(
    arrived: Mapping[str, Received], bus: ServiceBus, ask_consumer: AskConsumer, broker: LocalBus
) -> None:
    for message in arrived.values():
        identity, now = ask_consumer.identify(message), datetime.now(UTC)
        await bus.send(retry_copy(message, identity, now))
        await bus.send(handed_back(message, identity, now))
    assert len(broker.messages("ask")) == 2 * len(ASKS), "none was taken for another's duplicate"
    broker.purge("ask")


async def test_what_is_larger_than_the_broker_takes_is_the_senders_error(broker: LocalBus, bus: ServiceBus) -> None:
    body = b"x" * (LARGE + 10_000)
    with pytest.raises(MessageTooLarge, match="larger than the broker accepts"):
        await bus.send(Outgoing("ask", body, "ask.v1"))
    async with ServiceBusClient.from_connection_string(broker.connection_string) as client:
        with pytest.raises(MessageSizeExceededError):
            await post(client, "ask", [annotated(Poison("large", body, frozenset()))])


async def test_the_corpus_names_each_poison_once_and_covers_what_was_asked_for() -> None:
    assert len({poison.name for poison in ASKS}) == len(ASKS) >= 40
    assert len({poison.identity for poison in ASKS}) == len(ASKS), "or one would be taken for another"


async def test_garbage_on_our_own_queues_is_refused_with_its_reason() -> None:
    """What is well-formed is read: what is wrong with it, if anything, its handler finds."""
    strays = [each for each in STRAYS if each.queue in DECODERS]
    ended = {
        each.message_id: end(DECODERS[each.queue], Received(each.queue, each.body, each.subject, properties={}))[0]
        for each in strays
    }
    wellformed = {
        each.message_id for each in strays if each.reason is Reason.DEADLINE_EXCEEDED or each.told is not None
    }
    assert len(ended) == len(strays)
    assert ended == {each.message_id: None if each.message_id in wellformed else each.reason for each in strays}
