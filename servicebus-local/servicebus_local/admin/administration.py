"""The administration API: queues, topics, subscriptions and rules over HTTP, as Azure has it.

    GET      one, or a page of many             200; a queue or topic that is not there is an empty feed
    PUT      create                             201; 409 when there is one already
    PUT      with If-Match: update              200; 404 when there is none, 412 when it has changed
    DELETE   with everything in it              200; 404 when there is none

A request needs a token with the right to manage what it names, and what messages are forwarded to.
"""

from collections.abc import Callable

from servicebus_local.admin.atom import entry, of_entry
from servicebus_local.admin.authority import Authorize
from servicebus_local.admin.call import Call
from servicebus_local.admin.entities import Entities
from servicebus_local.admin.entries import show_namespace
from servicebus_local.admin.http import Request, Response
from servicebus_local.admin.refusals import refusal, refuse
from servicebus_local.admin.routes import Resource
from servicebus_local.admin.subscriptions import Subscriptions
from servicebus_local.admin.targets import Targets
from servicebus_local.bus.errors import BusError
from servicebus_local.bus.namespace import Namespace

Handler = Callable[[Call], Response]


class Administration:
    """Answers requests about the entities of a namespace."""

    def __init__(self, namespace: Namespace, authorize: Authorize) -> None:
        self._namespace = namespace
        self._authorize = authorize
        targets = Targets(namespace, authorize)
        entities, subscriptions = Entities(namespace, targets), Subscriptions(namespace, targets)
        self._handlers: dict[Resource, dict[str, Handler]] = {
            Resource.NAMESPACE: {"GET": self._show_namespace},
            Resource.QUEUES: {"GET": entities.list_queues},
            Resource.TOPICS: {"GET": entities.list_topics},
            Resource.ENTITY: {"GET": entities.show, "PUT": entities.put, "DELETE": entities.delete},
            Resource.SUBSCRIPTIONS: {"GET": subscriptions.list_all},
            Resource.SUBSCRIPTION: {
                "GET": subscriptions.show,
                "PUT": subscriptions.put,
                "DELETE": subscriptions.delete,
            },
            Resource.RULES: {"GET": subscriptions.list_rules},
            Resource.RULE: {
                "GET": subscriptions.show_rule,
                "PUT": subscriptions.put_rule,
                "DELETE": subscriptions.delete_rule,
            },
        }

    def __call__(self, request: Request) -> Response:
        """Answer a request; refusals are XML too."""
        call = Call(request, self._namespace.timers.clock())
        handlers = self._handlers[call.route.resource]
        handler = handlers.get(request.method)
        if handler is None:
            allowed = ", ".join(handlers)
            return refuse(405, f"{request.method} is not there for this, only {allowed}.", allow=allowed)
        try:
            self._authorize(call.token, request.path.strip("/"))  # some SDKs sign for just this
            call.check_version()
            return handler(call)
        except BusError as error:
            return refusal(error)

    def _show_namespace(self, call: Call) -> Response:
        return of_entry(entry(show_namespace(self._namespace.created_at), call.view))
