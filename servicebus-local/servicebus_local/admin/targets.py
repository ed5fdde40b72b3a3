"""Where entities forward to: the target must exist, and the caller must have the right to manage it."""

from typing import Final

from servicebus_local.admin.authority import Authorize
from servicebus_local.admin.call import Call
from servicebus_local.admin.refusals import TargetMissing
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.topology import QueueOptions

# The SDKs send a token for each target; without one, that of the request has to do.
_OF_MESSAGES: Final = "servicebussupplementaryauthorization"
_OF_DEAD_LETTERS: Final = "servicebusdlqsupplementaryauthorization"


class Targets:
    """The queues and topics of a namespace, as targets."""

    def __init__(self, namespace: Namespace, authorize: Authorize) -> None:
        self._namespace = namespace
        self._authorize = authorize

    def check(self, call: Call, options: QueueOptions) -> None:
        """Check what these options forward to; raises `TargetMissing` or `Unauthorized`."""
        headers = call.request.headers
        for element, name, token in (
            ("ForwardTo", options.forward_to, headers.get(_OF_MESSAGES)),
            ("ForwardDeadLetteredMessagesTo", options.forward_dead_letters_to, headers.get(_OF_DEAD_LETTERS)),
        ):
            if name is None:
                continue
            if self._namespace.get(name) is None and self._namespace.default_options is None:
                raise TargetMissing(f"{element}: there is no queue or topic '{name}'.")
            self._authorize(token or call.token, name)
