"""What the workers need of an embedding model."""

from collections.abc import Sequence
from typing import Protocol


class Embedder(Protocol):
    """Turns texts into vectors of one length. Raises `TryLater` when the model is busy or away."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text, in order. An empty text is a mistake of the caller: `ValueError`."""
