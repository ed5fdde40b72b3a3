"""The server's side of a SASL exchange (specification part 5, 5.3).

    mechanisms ──▶ ◀── init (──▶ challenge ◀── response)? ──▶ outcome

The mechanisms are those Azure offers, in its order. MSSBCBS and ANONYMOUS tell nothing: who may
do what is told by the tokens sent to $cbs. EXTERNAL would be a client's certificate, which is the
business of TLS, and PLAIN is a policy's name and key, which the caller judges.
"""

from collections.abc import Callable
from typing import Final

from servicebus_local.amqp.performatives import SaslChallenge, SaslInit, SaslMechanisms, SaslOutcome, SaslResponse
from servicebus_local.amqp.types import Array, Symbol, Ubyte

MECHANISMS: Final = ("MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL")
OFFER: Final = SaslMechanisms(Array(0xA3, [Symbol(name) for name in MECHANISMS]))

Authenticate = Callable[[str, str], bool]
"""Tells whether a user's name and password are right."""

_OK, _AUTH = Ubyte(0), Ubyte(1)


class Exchange:
    """One authentication, up to its outcome."""

    def __init__(self, authenticate: Authenticate) -> None:
        self.user = ""
        self._authenticate = authenticate
        self._challenged = False

    def on_init(self, init: SaslInit) -> SaslChallenge | SaslOutcome:
        """Answer the choice of a mechanism; one that was not offered is refused."""
        if init.mechanism not in MECHANISMS:
            return SaslOutcome(_AUTH)
        if init.mechanism != "PLAIN":
            return SaslOutcome(_OK)
        if init.initial_response is None:
            self._challenged = True
            return SaslChallenge(b"")
        return self._judge(init.initial_response)

    def on_response(self, response: SaslResponse) -> SaslOutcome:
        """Answer what came upon a challenge; without one nothing is accepted."""
        return self._judge(response.response) if self._challenged else SaslOutcome(_AUTH)

    def _judge(self, response: bytes) -> SaslOutcome:
        """Read `authorisation NUL user NUL password` (RFC 4616)."""
        parts = response.split(b"\0")
        try:
            user, password = (part.decode() for part in parts[-2:])
        except ValueError:  # too few parts, or not UTF-8
            return SaslOutcome(_AUTH)
        if len(parts) != 3 or not self._authenticate(user, password):
            return SaslOutcome(_AUTH)
        self.user = user
        return SaslOutcome(_OK)
