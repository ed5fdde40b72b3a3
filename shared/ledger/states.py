"""The states of a request in the ledger, and the steps between them. Pure; drawn in `docs/explanation/delivery.md`.

The scripts of `ledger.py` do this atomically in Redis; a test takes a real Redis through every pair.
"""

from collections.abc import Mapping
from enum import StrEnum


class LedgerState(StrEnum):
    """The state of a request."""

    UNKNOWN = "unknown"
    UNREAD = "unread"
    """An ask with this id could not be read, and its sender was told; the id is still free."""
    BOUND = "bound"
    """The id belongs to a question that is not admitted yet, or could not be enqueued."""
    ACCEPTED = "accepted"
    CANCELLED = "cancelled"
    """Cancelled before it was accepted: a tombstone."""
    DECIDED = "decided"
    """The outcome is stored, but not known to be sent."""
    DELIVERED = "delivered"
    """The outcome was sent, or stored for an HTTP caller. A repeat after a retryable one begins a new admission."""


class Step(StrEnum):
    """What can happen to it."""

    BIND = "bind"
    REPEAT = "repeat"
    """The same ask in another message, when `retry_after` of a retryable outcome has passed."""
    UNREAD = "unread"
    ACCEPT = "accept"
    CANCEL = "cancel"
    DECIDE = "decide"
    DELIVER = "deliver"
    STORE = "store"
    FORGET = "forget"


_ANY_TIME = {Step.DECIDE: LedgerState.DECIDED, Step.STORE: LedgerState.DELIVERED}
_BINDING = {Step.BIND: LedgerState.BOUND, Step.REPEAT: LedgerState.BOUND}

# Steps that are not listed change nothing. After a final outcome `REPEAT` changes nothing either.
NEXT: Mapping[LedgerState, Mapping[Step, LedgerState]] = {
    LedgerState.UNKNOWN: {
        **_BINDING,
        Step.UNREAD: LedgerState.UNREAD,
        Step.ACCEPT: LedgerState.ACCEPTED,
        Step.CANCEL: LedgerState.CANCELLED,
        **_ANY_TIME,
    },
    LedgerState.UNREAD: {
        **_BINDING,
        Step.ACCEPT: LedgerState.ACCEPTED,
        Step.CANCEL: LedgerState.CANCELLED,
        **_ANY_TIME,
    },
    LedgerState.BOUND: {Step.ACCEPT: LedgerState.ACCEPTED, Step.CANCEL: LedgerState.CANCELLED, **_ANY_TIME},
    # To cancel what was accepted is to decide it as `cancelled`.
    LedgerState.ACCEPTED: {Step.FORGET: LedgerState.BOUND, **_ANY_TIME},
    LedgerState.CANCELLED: {**_ANY_TIME},
    LedgerState.DECIDED: {Step.DELIVER: LedgerState.DELIVERED, Step.STORE: LedgerState.DELIVERED},
    LedgerState.DELIVERED: {Step.REPEAT: LedgerState.BOUND},
}


def after(state: LedgerState, step: Step) -> LedgerState:
    """The state that `step` leads to from `state`."""
    return NEXT[state].get(step, state)
