"""A foreign protocol is named where it is known, and its first bytes are shown where not."""

import pytest

from servicebus_local.foreign_protocols import protocol_of


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "TLS"),
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", "HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
        (b"AMQP\x00\x01\x00\x00", "AMQP"),
        (b"AMQP\x02\x01\x00\x00", "AMQP with TLS"),
        (b"AMQP\x00\x00\x09\x01", "AMQP 0-9-1"),
        (b"", "b''"),
        (
            b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04abcdefgh",
            r"b'\x10\x10\x00\x04MQTT\x04\x02\x00<\x00\x04abcdef'",
        ),
        (b"a line\nGET / HTTP/1.1", r"b'a line\nGET / HTTP/1.'"),
    ],
)
def test_a_protocol_is_named_by_its_first_bytes(data: bytes, name: str) -> None:
    assert protocol_of(data) == name
