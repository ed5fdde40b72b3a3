"""Every response other than 200, in Qdrant's shape and codes.

Refusal              a response: the status code, and the sentence in `status.error`
  wrong()       400  the request makes no sense
  unsupported() 400  Qdrant can do it, this stand-in cannot
  missing()     404
  taken()       409
CannotStart          the process ends with one line that names the fix
"""

from collections.abc import Iterator
from contextlib import contextmanager


class Refusal(Exception):
    """Answer the caller with `status` and a sentence instead of a result."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class CannotStart(Exception):
    """Why the process cannot start, and what to do about it."""


def wrong(sentence: str) -> Refusal:
    """A request that makes no sense: 400."""
    return Refusal(400, f"Wrong input: {sentence}")


def unsupported(what: str) -> Refusal:
    """A feature of Qdrant that this stand-in lacks: 400, because ignoring it would give wrong results."""
    return Refusal(400, f"Unsupported by local/vectors: {what} (see local/vectors/README.md)")


def missing(sentence: str) -> Refusal:
    """A collection or point that does not exist: 404."""
    return Refusal(404, f"Not found: {sentence}")


def taken(name: str) -> Refusal:
    """A collection that exists already: 409."""
    return Refusal(409, f"Wrong input: Collection `{name}` already exists!")


@contextmanager
def reading() -> Iterator[None]:
    """Turn the engine's complaints about a value's type or range into a refusal."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        first_line = str(error).partition("\n")[0]
        raise Refusal(400, f"Format error in JSON body: {first_line}") from error


@contextmanager
def engine(*, blames: int) -> Iterator[None]:
    """Turn what the engine raises while it works into an answer.

    It raises bare `Exception`s, so their text decides. An unknown text becomes the status `blames`: 400 for a query,
    which may name any field; 500 for a write, which was checked beforehand.
    """
    try:
        yield
    except Exception as error:
        said = str(error)
        if said.startswith("No point with id"):
            raise missing(f"{said} found") from error
        if "Shard is not initialized" in said:
            raise missing("the collection was deleted while it was asked") from error
        if blames == 500 or said.startswith("Service"):
            raise Refusal(500, f"Service internal error: {said}") from error
        raise wrong(said) from error
    except BaseException as error:
        # A Rust panic is no `Exception`, and must not end the process.
        if type(error).__name__ != "PanicException":
            raise
        raise Refusal(500, f"Service internal error: the engine panicked: {error}") from error
