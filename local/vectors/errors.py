"""Everything this server can say other than 200, in Qdrant's shape and codes.

Refusal              an answer: the status code and the sentence in `status.error`
  wrong()       400  the request cannot be meant
  unsupported() 400  Qdrant can, this stand-in cannot, and it says so
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
    """Refuse what cannot be meant."""
    return Refusal(400, f"Wrong input: {sentence}")


def unsupported(what: str) -> Refusal:
    """Refuse what Qdrant offers and this stand-in does not; ignoring it would be a lie."""
    return Refusal(400, f"Unsupported by local/vectors: {what} (see local/vectors/README.md)")


def missing(sentence: str) -> Refusal:
    """Refuse what refers to something that is not there."""
    return Refusal(404, f"Not found: {sentence}")


def taken(name: str) -> Refusal:
    """Refuse to create a collection twice."""
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

    It raises bare `Exception`s, so the sentence decides. What we do not recognise is answered
    with `blames`: 400 for a query, which may name anything; 500 for a write, checked beforehand.
    """
    try:
        yield
    except Exception as error:
        raise _translated(str(error), blames) from error
    except BaseException as error:
        # A Rust panic is no `Exception`, and must not end the process.
        if type(error).__name__ != "PanicException":
            raise
        raise Refusal(500, f"Service internal error: the engine panicked: {error}") from error


def _translated(sentence: str, blames: int) -> Refusal:
    if sentence.startswith("No point with id"):
        return missing(f"{sentence} found")
    if "Shard is not initialized" in sentence:
        return missing("the collection was deleted while it was asked")
    if blames == 500 or sentence.startswith("Service"):
        return Refusal(500, f"Service internal error: {sentence}")
    return wrong(sentence)
