"""What the workers need from an embedding model."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of n texts, in their order, and what they cost."""

    vectors: list[list[float]]
    tokens: int | None
    """The provider's count; None where it sends none."""


class Embedder(Protocol):
    """Turns texts into vectors."""

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """n texts → n vectors of `dimensions` floats each, in the order of the texts.

        Raises `TryLater` when the model is busy, `DependencyDown` when it is down, `ValueError` for a blank text.
        """


class SharedEmbedder(Protocol):
    """An embedder whose quota asks and ingestion share."""

    async def embed(self, texts: Sequence[str], *, tenant: str, due: datetime | None = None) -> Embedded:
        """See `Embedder`; also raises `OverQuota` when it is not yet the turn of this tenant's work.

        `due`: the deadline of an ask; None: it is ingestion, which comes after all asks.
        """
