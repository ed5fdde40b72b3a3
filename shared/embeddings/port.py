"""What the workers need of an embedding model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of some texts, in their order, and what they cost."""

    vectors: list[list[float]]
    tokens: int | None
    """As the provider counted them; None where it does not say."""


class Embedder(Protocol):
    """Turns texts into vectors of one length. Raises `TryLater` when the model is busy or away."""

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """One vector per text, in order. An empty text is a mistake of the caller: `ValueError`."""
