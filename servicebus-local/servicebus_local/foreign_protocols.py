"""Recognises the protocol of a client that does not speak the port's own, for the log.

Most are clients that would be fine with another setting: TLS where it is plain, the
administration client at the AMQP port. They see an error of their own library, which seldom
says so; the broker's log does.
"""

from asyncio import BaseTransport
from typing import Final

_SHOWN: Final = 20  # bytes of what cannot be named
_BEGINNINGS: Final = (
    (b"\x16\x03", "TLS"),  # the record of a ClientHello (RFC 8446, 5.1)
    (b"AMQP\x02", "AMQP with TLS"),
    (b"AMQP\x00\x00\x09", "AMQP 0-9-1"),
    (b"AMQP", "AMQP"),
    (b"PRI * HTTP/2", "HTTP/2"),
)


def protocol_of(data: bytes) -> str:
    """Name the protocol that begins so; of another, show the beginning."""
    for beginning, name in _BEGINNINGS:
        if data.startswith(beginning):
            return name
    return "HTTP" if b" HTTP/1." in data.partition(b"\n")[0] else repr(data[:_SHOWN])


def peer_address(transport: BaseTransport | None) -> str:
    """Write the address of a socket's other end."""
    peer = transport.get_extra_info("peername") if transport is not None else None
    return f"{peer[0]}:{peer[1]}" if peer else "a client that has disconnected"
