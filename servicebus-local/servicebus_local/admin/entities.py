"""Queues and topics: list, show, create, update, delete."""

from typing import Final
from xml.etree.ElementTree import Element

from servicebus_local.admin.atom import View, entry, feed, of_entry, of_feed
from servicebus_local.admin.call import Call, etag, missing
from servicebus_local.admin.descriptions import QUEUE, QUEUE_DEFAULTS, TOPIC, TOPIC_DEFAULTS, read_options
from servicebus_local.admin.entries import show_queue, show_topic
from servicebus_local.admin.http import Response
from servicebus_local.admin.targets import Targets
from servicebus_local.admin.values import checked, entity_path
from servicebus_local.admin.xml import local
from servicebus_local.bus.errors import InvalidArgument, QuotaExceeded
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.queue import Queue
from servicebus_local.bus.topics import Topic
from servicebus_local.bus.topology import QueueOptions, TopicOptions

ENTITY_LIMIT: Final = 10_000  # queues and topics of a namespace (Azure's quotas)
_QUEUE: Final = "QueueDescription"
_TOPIC: Final = "TopicDescription"


class Entities:
    """The queues and topics of a namespace."""

    def __init__(self, namespace: Namespace, targets: Targets) -> None:
        self._namespace = namespace
        self._targets = targets

    def list_queues(self, call: Call) -> Response:
        """Show a page of the queues."""
        queues, pages = call.page(list(self._namespace.queues()))
        entries = [entry(show_queue(queue, call.view), call.view) for queue in queues]
        return of_feed(feed("Queues", "$Resources/queues", entries, call.view, pages))

    def list_topics(self, call: Call) -> Response:
        """Show a page of the topics."""
        topics, pages = call.page(list(self._namespace.topics()))
        entries = [entry(show_topic(topic, call.view), call.view) for topic in topics]
        return of_feed(feed("Topics", "$Resources/topics", entries, call.view, pages))

    def show(self, call: Call) -> Response:
        """Show a queue or topic; when there is none, an empty feed, which the SDKs understand."""
        found = self._namespace.get(call.route.entity)
        if found is None:
            return of_feed(feed("Publicly Listed Services", call.route.entity, [], call.view))
        return _shown(found, call.view)

    # ------------------------------------------------------------------ changing

    def put(self, call: Call) -> Response:
        """Create a queue or topic, or update it."""
        description = call.description(_QUEUE, _TOPIC)
        if call.updates:
            return _shown(self._update(call, description), call.view)
        return _shown(self._create(call, description), call.view, 201)

    def _create(self, call: Call, description: Element) -> Queue | Topic:
        name = checked(entity_path, call.route.entity)
        if self._namespace.size >= ENTITY_LIMIT:
            raise QuotaExceeded(f"There are {ENTITY_LIMIT} queues and topics, which is the most there may be.")
        if local(description) == _TOPIC:
            return self._namespace.create_topic(name, _topic_options(call, description, None))
        return self._namespace.create_queue(name, self._queue_options(call, description, None))

    def _update(self, call: Call, description: Element) -> Queue | Topic:
        found = self._find(call)
        kind = _QUEUE if isinstance(found, Queue) else _TOPIC
        if local(description) != kind:
            raise InvalidArgument(f"'{found.name}' has a {kind}, not a {local(description)}.")
        if isinstance(found, Topic):
            return self._namespace.update_topic(found.name, _topic_options(call, description, found.options))
        return self._namespace.update_queue(found.name, self._queue_options(call, description, found.options))

    def delete(self, call: Call) -> Response:
        """Delete a queue, or a topic with its subscriptions."""
        self._namespace.delete(self._find(call).name)
        return Response(200, "", b"")

    def _find(self, call: Call) -> Queue | Topic:
        found = self._namespace.get(call.route.entity)
        if found is None:
            raise missing("queue or topic", call.route.entity)
        call.check_current(found)
        return found

    def _queue_options(self, call: Call, description: Element, current: QueueOptions | None) -> QueueOptions:
        options = read_options(description, QUEUE, QUEUE_DEFAULTS, current, call.now)
        self._targets.check(call, options)
        return options


def _topic_options(call: Call, description: Element, current: TopicOptions | None) -> TopicOptions:
    return read_options(description, TOPIC, TOPIC_DEFAULTS, current, call.now)


def _shown(entity: Queue | Topic, view: View, status: int = 200) -> Response:
    shown = show_topic(entity, view) if isinstance(entity, Topic) else show_queue(entity, view)
    return of_entry(entry(shown, view), status, etag(entity))
