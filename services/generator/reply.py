"""What a model said."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reply:
    """The text, and the tokens as the provider counted them."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut_off: bool = False
