"""A model's reply, or why there is none."""

from dataclasses import dataclass

from shared.errors import DependencyDown


@dataclass(frozen=True, slots=True)
class Reply:
    """The text, and the tokens as the provider counted them; `estimated` when it did not."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut_off: bool = False
    estimated: bool = False

    @property
    def tokens(self) -> int:
        """All that was paid for."""
        return self.prompt_tokens + self.completion_tokens


class Cancelled(Exception):
    """The request was cancelled. The call was not made, or stopped after `used` tokens (an estimate)."""

    def __init__(self, used: int = 0) -> None:
        super().__init__(f"the request was cancelled; {used} tokens were used")
        self.used = used


class CallTimeout(DependencyDown):
    """The call was broken off because its time was up, after `used` tokens (an estimate)."""

    def __init__(self, why: str, used: int = 0) -> None:
        super().__init__(why)
        self.used = used
