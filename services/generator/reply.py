"""A model's reply, or why there is none."""

from dataclasses import dataclass

from shared.llm.errors import NOTHING, ModelDown, Used


@dataclass(frozen=True, slots=True)
class Reply:
    """The text, and the tokens as the provider counted them; `estimated` when it did not."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut_off: bool = False
    estimated: bool = False

    @property
    def used(self) -> Used:
        """All that was paid for."""
        return Used(self.prompt_tokens, self.completion_tokens, self.estimated)

    @property
    def tokens(self) -> int:
        """All that was paid for."""
        return self.prompt_tokens + self.completion_tokens


class Cancelled(Exception):
    """The request was cancelled. The call was not made, or stopped after `used` tokens (an estimate)."""

    def __init__(self, used: Used = NOTHING) -> None:
        super().__init__(f"the request was cancelled; {used.tokens} tokens were used")
        self.used = used


class CallTimeout(ModelDown):
    """The call was broken off because its time was up, after `used` tokens (an estimate)."""

    def __init__(self, why: str, used: Used = NOTHING) -> None:
        super().__init__(why, used=used)
