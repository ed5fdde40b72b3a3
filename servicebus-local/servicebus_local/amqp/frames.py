"""AMQP 1.0 frames: a byte stream to performatives and back (specification part 2, 2.3).

    "AMQP" id major minor revision        a protocol header, before each layer
    size  doff type channel  performative payload…
    4 B   1 B  1 B  2 B

`FrameReader` cuts the stream, `parse` reads one body, `frame` writes any performative, and the
`*_frame` functions write those of the hot path. Descriptors are always written as `00 53 xx`:
the Azure SDK does not read their first two bytes, it steps over them. Every performative has all
its fields: before 7.15 the SDK indexes them without a look at how many there are.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Any, Final, NamedTuple

from servicebus_local.amqp import performatives
from servicebus_local.amqp.performatives import Disposition, Performative
from servicebus_local.amqp.types import DecodeError, Raw, Uint, decode, decode_list, encode_uint

AMQP_HEADER: Final = b"AMQP\x00\x01\x00\x00"
SASL_HEADER: Final = b"AMQP\x03\x01\x00\x00"
EMPTY_FRAME: Final = b"\x00\x00\x00\x08\x02\x00\x00\x00"
UNLIMITED: Final = 0xFFFFFFFF
SMALLEST_MAX_FRAME: Final = 512  # MIN-MAX-FRAME-SIZE: which every peer must accept (2.8.19)

_FRAME_HEADER = Struct(">IBBH")
_SIZE = Struct(">I")
AMQP_TYPE: Final = 0
SASL_TYPE: Final = 1


class FramingError(DecodeError):
    """The stream cannot be cut into frames; nothing after this point can be read."""


# --------------------------------------------------------------------------- reading


class Frame(NamedTuple):
    """One frame as it was cut from the stream; its extended header, if any, is left out."""

    channel: int
    body: bytes


class FrameReader:
    """Cuts a byte stream into protocol headers and frames.

    A header is expected first, and again after each call of `expect_header`; after it come frames
    of the type `frame_type`. Raises FramingError as soon as it is sure, not when the rest is there.
    """

    def __init__(self, max_frame_size: int) -> None:
        self.frame_type = AMQP_TYPE
        self._max = max_frame_size
        self._header_next = True
        self._waiting: list[bytes] = []
        self._there = 0
        self._needed = 0

    def expect_header(self) -> None:
        """Take the next eight bytes for a protocol header."""
        self._header_next = True

    def feed(self, data: bytes) -> Iterator[bytes | Frame]:
        """Yield each protocol header (as bytes) and each frame that `data` completes; raises `FramingError`."""
        if self._there:
            self._waiting.append(data)
            self._there += len(data)
            if self._there < self._needed:
                return
            data = b"".join(self._waiting)
            self._waiting.clear()
            self._there = 0
        buffer = data
        at, end = 0, len(buffer)
        while at < end:
            if end - at >= 8 and not self._header_next:
                size, offset, kind, channel = _FRAME_HEADER.unpack_from(buffer, at)
                if at + size <= end and kind == self.frame_type and 8 <= 4 * offset <= size <= self._max:
                    yield Frame(channel, buffer[at + 4 * offset : at + size])
                    at += size
                    continue
            if not self._header_next:
                length = self._frame_length(buffer, at)
            elif b"AMQP".startswith(buffer[at : at + 4]):
                length = 8
            else:
                raise FramingError("the peer does not speak AMQP")
            if end - at < length:
                self._waiting.append(buffer[at:])
                self._there, self._needed = end - at, length
                return
            self._header_next = False
            yield buffer[at : at + length]
            at += length

    def _frame_length(self, buffer: bytes, at: int) -> int:
        """Return the size of the frame that starts at `at`, or of what tells it."""
        there = len(buffer) - at
        if there < 4:
            return 4
        size: int = _SIZE.unpack_from(buffer, at)[0]
        if not 8 <= size <= self._max:
            raise FramingError(f"a frame of {size} bytes, where 8 to {self._max} are allowed")
        if there < 6:
            return size
        offset, kind = buffer[at + 4], buffer[at + 5]
        if kind != self.frame_type:
            raise FramingError(f"a frame of type {kind}, where type {self.frame_type} belongs")
        if not 8 <= 4 * offset <= size:
            raise FramingError(f"a frame whose body starts at word {offset}")
        return size


def parse(body: bytes) -> tuple[Performative, bytes]:
    """Read a performative and the payload that follows it; raises `DecodeError`."""
    descriptor: Any
    if body.startswith(b"\x00\x53") and len(body) > 3:
        descriptor, at = body[2], 3
    else:
        if body[:1] != b"\x00":
            raise DecodeError("a frame body must start with a descriptor")
        descriptor, at = decode(body, 1)  # a wide number or a name
        if not isinstance(descriptor, int | str):
            raise DecodeError(f"{descriptor!r:.40} describes no performative")
    fields, at = decode_list(body, at)
    return performatives.read(descriptor, fields), body[at:]


# --------------------------------------------------------------------------- writing


def frame(channel: int, performative: Performative) -> bytes:
    """Write any performative; the ones on the hot path have functions of their own."""
    body = performatives.write(performative)
    kind = SASL_TYPE if performatives.is_sasl(performative) else AMQP_TYPE
    return _FRAME_HEADER.pack(len(body) + 8, 2, kind, channel) + body


def transfer_frame(channel: int, first_fields: bytes, more: bool, payload: bytes) -> bytes:
    """Write a transfer whose first five fields were encoded by `transfer_fields`."""
    size, rest = len(first_fields) + 6, _MORE_FRAMES if more else _LAST_FRAME
    head = _LIST_FRAME.pack(14 + size + len(payload), 2, AMQP_TYPE, channel, _TRANSFER, size + 1, 11)
    return b"".join((head, first_fields, rest, payload))


_LIST_FRAME = Struct(">IBBH4sBB")  # a frame whose performative is a short list: its head, up to the count
_TRANSFER = b"\x00\x53\x14\xc0"
_DISPOSITION = b"\x00\x53\x15\xc0"
_FLOW = b"\x00\x53\x13\xc0"
_MORE_FRAMES, _LAST_FRAME = b"\x41" + b"\x40" * 5, b"\x40" * 6  # `more`, and what no transfer here has
TRANSFER_OVERHEAD: Final = 20
"""What a frame adds to the fields and the payload of a transfer at most."""


def transfer_fields(handle: int, delivery_id: int, tag: bytes, settled: bool) -> bytes:
    """Encode handle, delivery-id, delivery-tag (of at most 32 bytes), message-format and settled."""
    head = _TRANSFER_FIELDS.pack(0x70, handle, 0x70, delivery_id, 0xA0, len(tag))
    return b"%b%b\x43%b" % (head, tag, b"\x41" if settled else b"\x42")


_TRANSFER_FIELDS = Struct(">BIBIBB")


def disposition_frame(channel: int, role: bool, delivery_id: int, state: bytes) -> bytes:
    """Settle one delivery with an encoded outcome. One frame each: the SDK stalls on ranges."""
    size = len(state)
    if size > _SHORT_STATE:
        return frame(channel, Disposition(role, Uint(delivery_id), None, True, Raw(state)))
    head = _LIST_FRAME.pack(23 + size, 2, AMQP_TYPE, channel, _DISPOSITION, 10 + size, 6)
    return head + _DISPOSITION_FIELDS.pack(0x41 if role else 0x42, 0x70, delivery_id, 0x40, 0x41) + state + b"\x40"


_DISPOSITION_FIELDS = Struct(">BBIBB")
_SHORT_STATE: Final = 200


def flow_frame(channel: int, session: tuple[int, int, int, int], link: tuple[int, ...] = ()) -> bytes:
    """Write a flow: the four fields of the session, then handle, delivery-count, credit, available."""
    fields = b"".join(map(encode_uint, (*session, *link)))
    return _flow(channel, fields + b"\x40" * (7 - len(link)))


def drained_frame(channel: int, session: tuple[int, int, int, int], handle: int, delivery_count: int) -> bytes:
    """Write the flow that answers a drain: no credit left, none available, drain set."""
    fields = b"".join(map(encode_uint, (*session, handle, delivery_count, 0, 0)))
    return _flow(channel, fields + b"\x41\x40\x40")


def _flow(channel: int, fields: bytes) -> bytes:
    return _LIST_FRAME.pack(14 + len(fields), 2, AMQP_TYPE, channel, _FLOW, len(fields) + 1, 11) + fields
