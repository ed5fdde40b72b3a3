"""`queues.md`: every queue of the example installation and what it promises."""

from collections.abc import Sequence

from ops.reference.text import Files, markdown, spoken, table
from shared.contracts.queues import LOCK, SKEW, Queue, longest_deadline, shortest_window, within_emulator

PAGE = "docs/reference/queues.md"
_HEAD = ("queue", "carries", "consumer", "lock", "duplicates", "deliveries", "time to live", "expired", "dead letters")


def files(queues: Sequence[Queue]) -> Files:
    """The page about `queues`, the example's."""
    intro = (
        "The topology is written once, in `shared/contracts/queues.py`. These are the queues of the example in "
        "`examples/onboarding`: each caller in `callers.yaml` has its own ingress queue and its own reply queues, the "
        "others always exist. All are peek-lock and unpartitioned."
    )
    window = shortest_window(queues)
    deadlines = f"""## How long a deadline may be

The broker must still know the first outcome's message id when a second one arrives. So the duplicate window must hold
the longest deadline, a lock and the clock skew: {spoken(window)} - {spoken(LOCK)} - {spoken(SKEW)} =
{spoken(longest_deadline(window))}. The gateway refuses to start with a use case that asks for more."""
    narrow = shortest_window([within_emulator(queue) for queue in queues])
    emulator = f"""## On Microsoft's emulator

Its limits are a duplicate window of {spoken(narrow)} and a time to live of one hour, so the longest deadline is
{spoken(longest_deadline(narrow))}. `deploy/compose/Config.json` is written from the same topology with these limits."""
    return {PAGE: markdown("Queues", intro, table(_HEAD, map(_row, queues)), deadlines, emulator)}


def _row(queue: Queue) -> Sequence[str]:
    return (
        f"`{queue.name}`" + (" (sessions)" if queue.sessions else ""),
        ", ".join(f"`{kind}`" for kind in queue.carries),
        queue.consumer,
        spoken(queue.lock),
        spoken(queue.duplicate_window) if queue.duplicate_window else "off",
        str(queue.max_delivery_count),
        spoken(queue.time_to_live),
        "dead-lettered" if queue.dead_letter_on_expiry else "dropped",
        f"`{queue.forward_dead_letters_to}`" if queue.forward_dead_letters_to else "its own dead-letter queue",
    )
