"""How far a connection has come; `connection` has the picture."""

from enum import Enum, auto


class ConnectionState(Enum):
    """The stages of a connection, in the order they are passed."""

    HEADER = auto()
    SASL = auto()
    OPENING = auto()
    OPENED = auto()
    CLOSING = auto()
    ENDED = auto()
