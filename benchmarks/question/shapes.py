"""What is asked, how much at once, and how large each part is: the same for the system and for the naive script."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shapes:
    """The sizes of one question's way. The system's come from the example's use case, whose values these are."""

    in_flight: int = 20
    """Questions under way at the same time."""
    points: int = 36
    """Points with payload in the answer to a hybrid query: the use case's 12 candidates, overfetched 3 times."""
    passages: int = 12
    """Passages in a prompt; the system leaves out what does not fit the model's window of 4,000 tokens."""
    answer_tokens: int = 400
    """The limit of an answer."""


SHAPES = Shapes()
# Names of the example (examples/onboarding/models.yaml, use_cases/onboarding.yaml).
COLLECTION = "passages-handbook"
EMBEDDINGS = "text-embedding-3-small"
CHAT = "onboarding-4k"
DIMENSIONS = 256
SYSTEM = (
    "Answer the question from the passages below, and from nothing else. After each statement, cite the passage with "
    "its number in square brackets. If the passages do not hold the answer, reply exactly: NO_ANSWER"
)
