"""Named places at which a test makes a worker die: before and after every effect that the outside can see.

    failpoints.reach("worker.sent")

A shipped worker does nothing there: traps are set by the tests (`tests/failpoints.py`), which no image contains, and
no setting of a worker reaches them. The idea and the word: FreeBSD's fail(9).
"""

from collections.abc import Callable
from typing import Final

# Where, and what has just happened (or, with -ing, is about to). Closed: other names cannot be reached.
POINTS: Final[dict[str, str]] = {
    "worker.received": "a delivery is locked",
    "worker.decoded": "its body could be read",
    "worker.recognised": "its request has no outcome yet",
    "worker.handled": "the handler is done, nothing was sent",
    "worker.sending": "a message is about to leave",
    "worker.sent": "the broker has taken a message",
    "worker.completing": "everything was sent, the delivery is still there",
    "worker.settled": "the delivery is gone, nothing was said of it",
    "worker.retrying": "a copy for later is about to be scheduled",
    "worker.retried": "the copy is scheduled, the delivery is still there",
    "worker.dead_lettering": "the delivery is about to be dead-lettered",
    "worker.archiving": "the caller of a dead message was told, it is about to be archived",
    "worker.handing_back": "the grace period is over",
    "worker.handed_back": "the copy for another worker is there, the delivery too",
    "outcome.claiming": "an outcome is about to be claimed",
    "outcome.claimed": "an outcome is claimed, not sent",
    "outcome.sent": "an outcome is sent, not noted as sent",
    "outcome.noted": "an outcome is noted as sent",
    "breaker.opened": "a breaker has opened",
    "breaker.half_open": "the right to probe is taken",
    "intake.reserved": "tokens are reserved",
    "intake.accepted": "the request is in the ledger, not on a queue",
    "http.taken": "HTTP has admitted a request, not on a queue",
    "http.enqueued": "the request is on its queue, HTTP has not answered",
    "cancel.noted": "the ledger knows that a request is not wanted",
    "cancel.claimed": "`cancelled` is claimed as its outcome, unless it had one",
    "cancel.settled": "the tokens of a cancelled request are given back",
    "outcomes.filing": "waiting HTTP callers were told, the ledger was not",
    "outcomes.filed": "the outcome of an HTTP caller is in the ledger",
    "dead.telling": "a dead message's caller is about to be told",
    "dead.settled": "its reserved tokens are given back, if it held any",
    "retriever.embedding": "a question is about to be embedded",
    "retriever.embedded": "the question is embedded",
    "retriever.searched": "passages were looked for",
    "retriever.given_back": "there is nothing to answer from, reserved tokens are given back",
    "generator.calling": "a model is about to be paid",
    "generator.called": "a model was paid, its answer is nowhere but here",
    "generator.kept": "the answer is the outcome in the ledger",
    "generator.settled": "the tokens are settled",
    "generator.cached": "the answer is cached",
    "generator.stopped": "a call was broken off, because its request was cancelled",
    "indexer.looked": "the registry and the lake were asked",
    "indexer.read": "the document is read",
    "indexer.parsed": "the document is parsed",
    "indexer.embedded": "a batch of passages is embedded",
    "indexer.stored": "a batch of passages is stored, they do not count yet",
    "indexer.committing": "answers from the old version are evicted, the new one does not count yet",
    "indexer.committed": "the new version counts",
    "indexer.evicted": "answers from the old version are evicted again",
    "indexer.collected": "passages of the old version are gone",
}

_trap: Callable[[str], None] | None = None


def reach(name: str) -> None:
    """Say that the work has come to `name`, one of `POINTS`."""
    if _trap is not None:
        _trap(name)


def arm(trap: Callable[[str], None] | None) -> None:
    """From now on call `trap` with each name that is reached; None: with none."""
    global _trap
    _trap = trap
