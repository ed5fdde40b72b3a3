"""Embeddings from wordllama: 256 numbers per text, weights inside the wheel, no network.

`WordLlama.load()` looks for its tokenizer in the wrong folder and would download one; naming its own package as the
cache directory is the way round. It also sets up the root logger on import, so ours must be set up before.
"""

import asyncio
import base64
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

    Matrix = numpy.ndarray[Any, numpy.dtype[numpy.float32]]

DIMENSIONS = 256
# How many sentences' vectors are kept: 5 MB.
KNOWN = 5_000


class Embedder:
    """Loads the model in one background thread and embeds in the same."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embed")
        self._model: asyncio.Future[Any] | None = None
        self._known: dict[str, Matrix] = {}

    def start(self) -> None:
        """Begin loading; it takes about a second."""
        self._model = asyncio.get_running_loop().run_in_executor(self._thread, _load)

    @property
    def state(self) -> str:
        """`loading`, `ready`, or `failed: …`."""
        if self._model is None or not self._model.done():
            return "loading"
        error = self._model.exception()
        return f"failed: {error}" if error else "ready"

    async def similarities(self) -> Callable[[str, Sequence[str]], list[float]]:
        """What says how alike a text and others are, once the model is loaded; raises what loading it raised."""
        return partial(self._similarities, await self._loaded())

    async def embed(self, texts: list[str], dimensions: int = DIMENSIONS) -> "Matrix":
        """n texts → an array of n × `dimensions` float32, rows of unit length. Raises what loading the model raised."""
        model = await self._loaded()
        run = asyncio.get_running_loop().run_in_executor
        return await run(self._thread, _embed, model, texts, dimensions)

    async def _loaded(self) -> Any:
        if self._model is None:
            self.start()
        assert self._model is not None
        return await asyncio.shield(self._model)

    def _similarities(self, model: Any, text: str, others: Sequence[str]) -> list[float]:
        unknown = [each for each in dict.fromkeys((text, *others)) if each not in self._known]
        if len(self._known) + len(unknown) > KNOWN:
            self._known.clear()
            unknown = list(dict.fromkeys((text, *others)))
        self._known.update(zip(unknown, _embed(model, unknown, DIMENSIONS), strict=True))
        return [float(self._known[text] @ self._known[other]) for other in others]

    def stop(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def as_floats(row: "Matrix") -> list[float]:
    """`encoding_format: float`."""
    found: list[float] = row.tolist()
    return found


def as_base64(row: "Matrix") -> str:
    """`encoding_format: base64`: little-endian float32, what the SDK asks for unless told otherwise."""
    return base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")


def matrix(rows: list[list[float]]) -> "Matrix":
    """Vectors as an array, once more."""
    import numpy

    found: Matrix = numpy.array(rows, dtype=numpy.float32)
    return found


def _load() -> Any:
    import wordllama  # type: ignore[import-untyped]

    model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    model.tokenizer.no_padding()
    return model


def _embed(model: Any, texts: list[str], dimensions: int) -> "Matrix":
    """The mean of each text's token vectors.

    wordllama's own `embed` pads a batch to its longest text, which costs memory, and divides by zero on a text
    without tokens.
    """
    import numpy

    rows = numpy.zeros((len(texts), DIMENSIONS), dtype=numpy.float32)
    for row, encoded in zip(rows, model.tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
        if encoded.ids:
            row[:] = model.embedding[encoded.ids].mean(axis=0)
    rows = rows[:, :dimensions]
    lengths = numpy.linalg.norm(rows, axis=1, keepdims=True)
    found: Matrix = rows / numpy.maximum(lengths, 1e-12)
    return found
