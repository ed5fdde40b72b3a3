"""How much one connection may ask of the broker, and where its numbers begin.

Two of the numbers are those Azure announces (4,999 and 255, as its own refusals name them); the
others are far above what a client needs. Above a limit the peer gets an error of the
specification, on its own connection; other connections do not notice.
"""

from typing import NamedTuple


class Limits(NamedTuple):
    """The bounds of one connection: counts, bytes, and seconds."""

    max_frame_size: int = 65536
    channel_max: int = 4999
    handle_max: int = 255
    links: int = 10_000  # on all sessions of the connection together
    terms: int = 8 * 1024 * 1024  # bytes of what their attach frames say, which is kept as long as they are
    window: int = 65536  # transfers that may come in before the session's window is opened again
    credit: int = 1000
    message: int = 256 * 1024
    partial: int = 16 * 1024 * 1024  # bytes of messages whose last frame has not come
    unsettled: int = 100_000  # deliveries of one session that wait for the peer's outcome
    waiting: int = 16 * 1024 * 1024  # bytes of messages that wait for the peer's session window
    output: int = 1024 * 1024  # bytes that wait to be taken before messages, credit and windows have to
    opening: float = 30.0  # seconds to come as far as the open frame
    closing: float = 5.0  # seconds to answer our close
    # Numbers of transfers may begin anywhere. Those of deliveries are high: the SDK's sender ignores
    # the role of a disposition, so with low ids the outcome of one of our deliveries would also
    # settle its own request of the same number, and its reply would be lost.
    first_transfer_id: int = 0
    first_delivery_id: int = 2**28


DEFAULT_LIMITS = Limits()
