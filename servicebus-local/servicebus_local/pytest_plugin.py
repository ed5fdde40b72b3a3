"""Fixtures for tests of programs that use Service Bus; the only module here that needs pytest.

    # test_orders.py; nothing has to be imported, pytest finds the installed plugin
    @pytest.mark.servicebus("orders", "news/Subscriptions/all")
    def test_an_order_is_confirmed(servicebus):
        with ServiceBusClient.from_connection_string(servicebus.connection_string) as client:
            with client.get_queue_sender("orders") as sender:
                sender.send_messages(ServiceBusMessage("one coffee"))
        assert servicebus.counts("orders").active == 1

`servicebus` is a fresh broker for each test, in a thread of its own and in real time, so it serves
synchronous and asyncio code alike. Its entities are those of the marker, or else of the file that
the setting `servicebus_config` names, Microsoft's `Config.json`. `make_servicebus` makes more of
them, and with a `ManualClock` if it is asked to:

    def test_an_order_is_tried_again(make_servicebus):
        bus = make_servicebus("orders", clock=ManualClock())
        ...
        bus.advance(61)
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from servicebus_local.testing import Given, LocalBus, ThreadedBus

MakeServiceBus = Callable[..., ThreadedBus]

_MARKER = (
    "servicebus(*entities, **options): the entities of the `servicebus` fixture, and options of `LocalBus`: "
    "names, a Config.json as a Path or parsed, a Topology, or options by name"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the setting for the whole project."""
    parser.addini("servicebus_config", "a Config.json with the entities of the `servicebus` fixture", type="string")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def make_servicebus(request: pytest.FixtureRequest) -> Iterator[MakeServiceBus]:
    """Make brokers that live as long as the test: `make_servicebus(*entities, clock=..., **options)`.

    Without entities, those of the marker or the setting are taken.
    """
    with ExitStack() as running:

        def make(*entities: Given, **options: Any) -> ThreadedBus:
            chosen = entities or _configured(request)
            return running.enter_context(LocalBus(*chosen, **options))

        yield make


@pytest.fixture
def servicebus(make_servicebus: MakeServiceBus, request: pytest.FixtureRequest) -> ThreadedBus:
    """A fresh broker, with the entities of the marker or of the setting."""
    marker = request.node.get_closest_marker("servicebus")
    return make_servicebus(**(marker.kwargs if marker is not None else {}))


def _configured(request: pytest.FixtureRequest) -> tuple[Given, ...]:
    marker = request.node.get_closest_marker("servicebus")
    if marker is not None and marker.args:
        return tuple(marker.args)
    path = request.config.getini("servicebus_config")
    if path:
        return (Path(request.config.rootpath, path),)
    raise pytest.UsageError(
        "no entities: mark the test with @pytest.mark.servicebus('orders'), or name a file in the "
        "setting servicebus_config"
    )
