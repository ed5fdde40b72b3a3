"""Violations of the protocol, by what they end: a link, a session, or the whole connection.

They are raised while a frame is read and caught by the connection, which tells the peer. The
conditions are those of the specification: shared ones `amqp:…` (part 2, 2.8.15), and those of
connections, sessions and links (2.8.16 to 2.8.18).
"""

from servicebus_local.amqp.composites import Error


class Violation(Exception):
    """The peer broke the protocol."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(description)
        self.error = Error(condition, description)


class ConnectionViolation(Violation):
    """The connection ends with this error."""


class SessionViolation(Violation):
    """The session of the frame ends with this error."""


class LinkViolation(Violation):
    """The link of the frame is detached with this error."""
