"""What the ledger can know of a request, and what each step makes of it. Pure; `docs/explanation/delivery.md` draws it.

The scripts of `ledger.py` do this in Redis, atomically; a test leads a real one through every pair.
"""

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """What is known of a request."""

    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    UNWANTED = "unwanted"
    """Cancelled before it was accepted: a tombstone."""
    CLAIMED = "claimed"
    """It has its outcome, the only one it will ever have."""
    TOLD = "told"
    """The outcome was sent, or filed for an HTTP caller."""


class Step(StrEnum):
    """What can happen to it."""

    ACCEPT = "accept"
    CANCEL = "cancel"
    CLAIM = "claim"
    SENT = "sent"
    FILE = "file"
    FORGET = "forget"


_ANY_TIME = {Step.CLAIM: State.CLAIMED, Step.FILE: State.TOLD}

# What is not named here changes nothing.
NEXT: Mapping[State, Mapping[Step, State]] = {
    State.UNKNOWN: {Step.ACCEPT: State.ACCEPTED, Step.CANCEL: State.UNWANTED, **_ANY_TIME},
    # To cancel what was accepted is to claim `cancelled` for it.
    State.ACCEPTED: {Step.FORGET: State.UNKNOWN, **_ANY_TIME},
    State.UNWANTED: {Step.FORGET: State.UNKNOWN, **_ANY_TIME},
    State.CLAIMED: {Step.SENT: State.TOLD, Step.FILE: State.TOLD},
    State.TOLD: {},
}


def after(state: State, step: Step) -> State:
    """The state that `step` leads to from `state`."""
    return NEXT[state].get(step, state)
