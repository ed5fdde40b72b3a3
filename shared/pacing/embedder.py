"""An embedder that keeps to the quota of its deployment, which asks and ingestion share."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from shared.contracts.ids import digest
from shared.embeddings.port import Embedded, Embedder
from shared.errors import OverQuota
from shared.llm.deployments import Deployment
from shared.llm.errors import Throttled
from shared.llm.tokens import count_tokens
from shared.pacing.pacing import Demand, Pacing

# What an ask must have left when its question is embedded: the search and a model call follow.
MARGIN = timedelta(seconds=2)
# Ingestion has no deadline.
LONG = timedelta(days=1)


class PacedEmbedder:
    """Asks `pacing` for its turn before each call of `embedder`."""

    def __init__(
        self, embedder: Embedder, pacing: Pacing, deployment: Deployment, clock: Callable[[], datetime]
    ) -> None:
        self._embedder = embedder
        self._pacing = pacing
        self._deployment = deployment
        self._clock = clock

    async def embed(self, texts: Sequence[str], *, tenant: str, due: datetime | None = None) -> Embedded:
        """See `SharedEmbedder`."""
        demand = Demand(
            # There is no other id of the work: the same texts with the same deadline are the same work.
            who=digest(tenant, str(due), *texts),
            tenant=tenant,
            tokens=sum(map(count_tokens, texts)),
            due=due,
            patience=due - self._clock() - MARGIN if due else LONG,
        )
        try:
            async with self._pacing.turn(self._deployment, demand) as turn:
                embedded = await self._embedder.embed(texts)
                turn.used = embedded.tokens
                return embedded
        except Throttled as busy:
            if due is not None:
                raise
            # Ingestion has no deadline, and only a number of attempts: what has no quota must not use them up.
            raise OverQuota(str(busy), after=busy.after) from busy
