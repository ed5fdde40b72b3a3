"""What the ledger can know of a request, and what each step makes of it. Pure; `docs/explanation/delivery.md` draws it.

The scripts of `ledger.py` do this in Redis, atomically; a test leads a real one through every pair.
"""

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """What is known of a request."""

    UNKNOWN = "unknown"
    UNREAD = "unread"
    """An ask with its id could not be read, and its sender was told so; the id is still free."""
    BOUND = "bound"
    """Its id belongs to a question, which was not admitted yet, or could not be enqueued."""
    ACCEPTED = "accepted"
    UNWANTED = "unwanted"
    """Cancelled before it was accepted: a tombstone."""
    CLAIMED = "claimed"
    """It has its outcome. Only a repeat of an ask whose outcome was retryable begins anew."""
    TOLD = "told"
    """The outcome was sent, or filed for an HTTP caller."""


class Step(StrEnum):
    """What can happen to it."""

    BIND = "bind"
    REPEAT = "repeat"
    """The same ask in another message, when `retry_after` of a retryable outcome has passed."""
    UNREAD = "unread"
    ACCEPT = "accept"
    CANCEL = "cancel"
    CLAIM = "claim"
    SENT = "sent"
    FILE = "file"
    FORGET = "forget"


_ANY_TIME = {Step.CLAIM: State.CLAIMED, Step.FILE: State.TOLD}
_BINDING = {Step.BIND: State.BOUND, Step.REPEAT: State.BOUND}

# What is not named here changes nothing. Of a final outcome `REPEAT` changes nothing either.
NEXT: Mapping[State, Mapping[Step, State]] = {
    State.UNKNOWN: {
        **_BINDING,
        Step.UNREAD: State.UNREAD,
        Step.ACCEPT: State.ACCEPTED,
        Step.CANCEL: State.UNWANTED,
        **_ANY_TIME,
    },
    State.UNREAD: {**_BINDING, Step.ACCEPT: State.ACCEPTED, Step.CANCEL: State.UNWANTED, **_ANY_TIME},
    State.BOUND: {Step.ACCEPT: State.ACCEPTED, Step.CANCEL: State.UNWANTED, **_ANY_TIME},
    # To cancel what was accepted is to claim `cancelled` for it.
    State.ACCEPTED: {Step.FORGET: State.BOUND, **_ANY_TIME},
    State.UNWANTED: {**_ANY_TIME},
    State.CLAIMED: {Step.SENT: State.TOLD, Step.FILE: State.TOLD},
    State.TOLD: {Step.REPEAT: State.BOUND},
}


def after(state: State, step: Step) -> State:
    """The state that `step` leads to from `state`."""
    return NEXT[state].get(step, state)
