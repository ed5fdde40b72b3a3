"""Whether a worker has messages fetched ahead of being asked for: only while its work is quick.

What is fetched ahead is locked here, and another replica that has nothing to do cannot have it. So it must not wait
longer than a slot takes to become free. Quick work needs it where the broker is far away: at a round trip of 100 ms one
receiver that asks for one message after the other gets ten a second (`python -m benchmarks.adapter`).
"""

# Seconds that work takes on average: below the first messages are fetched ahead, above the second no longer.
QUICK, SLOW = 0.1, 0.5
# Seconds without a message after which nothing is fetched ahead: a receiver that does so reads its socket more often
# (`shared.bus.servicebus.client`), and a replica that idles need not.
IDLE = 30.0
# Each piece of work counts for so much of the average; the first is reached after a dozen quick ones.
WEIGHT = 1 / 8
# More would not be waited for by any round trip that we know, and all count as failed when the process is killed.
MOST = 64


class Prefetch:
    """How many messages to have fetched ahead by a worker with `slots`."""

    def __init__(self, slots: int) -> None:
        self._most = min(slots - 1, MOST)
        self._average = SLOW
        self._idle = 0.0
        self.count = 0

    def worked(self, seconds: float) -> None:
        """A piece of work took so long, from its arrival here until it was done."""
        self._idle = 0.0
        self._average += (seconds - self._average) * WEIGHT
        if self._average < QUICK:
            self.count = self._most
        elif self._average > SLOW:
            self.count = 0

    def waited(self, seconds: float) -> None:
        """No message came for so many more seconds."""
        self._idle += seconds
        if self._idle >= IDLE:
            self.stop()

    def stop(self) -> None:
        """Fetch nothing ahead until work has proved to be quick again."""
        self._average, self.count = SLOW, 0
