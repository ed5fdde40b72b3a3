"""How many messages a worker prefetches: none, unless its work is quick and there is much of it.

What is fetched ahead is locked here, and another replica that has nothing to do cannot have it. So it must not wait
longer than a slot takes to become free. Quick work needs it where the broker is far away: at a round trip of 100 ms one
receiver that asks for one message after the other gets ten a second (`python -m benchmarks.adapter`).
"""

# Average seconds of work: below the first, messages are prefetched; above the second, no longer.
QUICK, SLOW = 0.1, 0.5
# Seconds of waiting for messages, in all, after which prefetching ends, and how many each message makes up for. A
# receiver that prefetches reads its socket more often (`shared.bus.servicebus.client`), and five messages a second need
# no prefetching at any round trip that we know of.
IDLE, PER_MESSAGE = 5.0, 0.2
# The weight of the last piece of work in the average; after a dozen quick ones it is below `QUICK`.
WEIGHT = 1 / 8
# No round trip that we know of needs more, and all of them count as failed when the process is killed.
MOST = 64


class Prefetch:
    """How many messages to prefetch, for a worker with `slots`."""

    def __init__(self, slots: int) -> None:
        self._most = min(slots - 1, MOST)
        self._average = SLOW
        self._idle = 0.0
        self.count = 0

    def worked(self, seconds: float) -> None:
        """Count a piece of work: `seconds` from its arrival here until it was done."""
        self._idle = max(0.0, self._idle - PER_MESSAGE)
        self._average += (seconds - self._average) * WEIGHT
        if self._average < QUICK and not self._idle:
            self.count = self._most
        elif self._average > SLOW:
            self.count = 0

    def waited(self, seconds: float) -> None:
        """Count `seconds` of waiting for a message."""
        self._idle = min(IDLE, self._idle + seconds)
        if self._idle == IDLE:
            self.stop()

    def stop(self) -> None:
        """Prefetch nothing until work has proved to be quick again."""
        self._average, self.count = SLOW, 0
