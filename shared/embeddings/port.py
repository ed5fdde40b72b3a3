"""What the workers need from an embedding model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of some texts, in their order, and what they cost."""

    vectors: list[list[float]]
    tokens: int | None
    """The provider's count; None where it sends none."""


class Embedder(Protocol):
    """Turns n texts into n vectors of one length. Raises `TryLater` when the model is busy, `DependencyDown` when it is
    down."""

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """One vector per text, in order. An empty text is a mistake of the caller: `ValueError`."""
