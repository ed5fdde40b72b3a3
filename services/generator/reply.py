"""A model's reply, or why there is none. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from shared.contracts.outcome import Code
from shared.errors import Reason, Unprocessable
from shared.llm.errors import NOTHING, Fault, ModelDown, ModelError, Used


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


class NoAnswer(Unprocessable, ModelError):
    """A complete, paid reply without an answer, which the same call would bring again; `code` says what it was.

    Another deployment may do better.
    """

    fault = Fault.CONFIGURATION

    def __init__(self, code: Code, detail: str, used: Used = NOTHING) -> None:
        super().__init__(Reason.MISCONFIGURED, detail)
        self.code = code
        self.used = used

    @property
    def result(self) -> str:
        """Its code."""
        return str(self.code)


def usable_usage(
    reported: tuple[object, object] | None, *, estimate: Callable[[], Used], most_prompt: int, most_output: int
) -> tuple[Used, bool]:
    """What a call used, and whether the provider's count could not be taken as it is.

    `reported`: prompt and completion tokens as the provider sent them, of any type. A count that is not a number, is
    negative, or is zero where there must be some, is replaced by the estimate; one that is larger than the request
    could have used becomes the most that it could: `most_prompt`, `most_output`.
    """
    if reported is None:
        return estimate(), False
    prompt, completion = (_number(each) for each in reported)
    if prompt and completion and prompt <= most_prompt and completion <= most_output:
        return Used(prompt, completion), False
    guess = estimate()
    usable = Used(
        min(prompt or guess.prompt_tokens, most_prompt),
        min(completion or guess.completion_tokens, most_output),
        estimated=True,
    )
    if (usable.prompt_tokens, usable.completion_tokens) == (prompt, completion):
        return Used(usable.prompt_tokens, usable.completion_tokens), False
    return usable, True


def _number(value: object) -> int | None:
    """A count that is not negative; None: it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = int(float(value))
    except (ValueError, OverflowError):
        return None
    return number if number >= 0 else None
