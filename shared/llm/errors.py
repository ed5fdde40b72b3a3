"""How a model call fails: whose fault it is, and what the worker does next.

TryLater
├── Throttled           THROTTLED      the deployment has no quota left    -> another deployment, or wait
└── DependencyDown
    └── ModelDown       DOWN           unreachable, 5xx, broken off        -> another deployment, or wait
        └── InvalidReply               200, but not a usable completion   -> the same, a bounded number of times
Unprocessable
├── ModelMisconfigured  CONFIGURATION  key, name, parameter, quota plan    -> another deployment, and the operator
├── ContextTooLong      TOO_LONG       more tokens than the window         -> one smaller prompt
└── ModelRefused        REFUSED        the model or its filter declined    -> tell the caller
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from shared.errors import DependencyDown, Reason, TryLater, Unprocessable


class Fault(StrEnum):
    """Whose fault a failed model call is.

    The owners of docs/explanation/delivery.md: the caller has `caller` and, once a smaller prompt did not help,
    `too_long`; the operator `configuration`; nobody (wait) `throttled` and `down`; the provider `refused`. No error of
    a provider is `caller`: our request is made from configuration.
    """

    CALLER = "caller"
    CONFIGURATION = "configuration"
    THROTTLED = "throttled"
    DOWN = "down"
    REFUSED = "refused"
    TOO_LONG = "too_long"


@dataclass(frozen=True, slots=True)
class Used:
    """The tokens of a call; `estimated` when they are not the provider's count."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False

    @property
    def tokens(self) -> int:
        """All that was paid for."""
        return self.prompt_tokens + self.completion_tokens


NOTHING = Used()


class ModelError(Exception):
    """A failed call of a model; `used`: what it cost, `sentence`: the provider's own words (redacted, short)."""

    fault: Fault
    used: Used = NOTHING
    sentence: str = ""

    @property
    def result(self) -> str:
        """How the call ended, in one word, for the outcome's `calls`."""
        return str(self.fault)


class Throttled(TryLater, ModelError):
    """The deployment has no quota left for now; `after`: the wait that the provider asked for."""

    fault = Fault.THROTTLED

    def __init__(self, why: str, *, after: timedelta = timedelta(0), sentence: str = "") -> None:
        super().__init__(why, after=after)
        self.sentence = sentence


class ModelDown(DependencyDown, ModelError):
    """The deployment failed: unreachable, a time-out, a 5xx, or it broke off after `used` tokens."""

    fault = Fault.DOWN

    def __init__(self, why: str, *, after: timedelta = timedelta(0), sentence: str = "", used: Used = NOTHING) -> None:
        super().__init__(why, after=after)
        self.sentence = sentence
        self.used = used


class InvalidReply(ModelDown):
    """The deployment answered 200, and the body is not a completion, or has no end.

    It may be the same at every attempt, so paid ones are counted (`services/generator/failover.py`).
    """

    @property
    def result(self) -> str:
        """Its outcome code when it happens again and again."""
        return "InvalidReply"


class ModelMisconfigured(Unprocessable, ModelError):
    """The provider does not accept our request: the operator must change models.yaml, a key or the quota plan.

    `status`: of the HTTP response. `param`: the parameter that the provider names, if it names one.
    """

    fault = Fault.CONFIGURATION

    def __init__(self, detail: str, *, status: int | None = None, sentence: str = "", param: str = "") -> None:
        super().__init__(Reason.MISCONFIGURED, detail)
        self.status = status
        self.sentence = sentence
        self.param = param


class ContextTooLong(Unprocessable, ModelError):
    """The prompt and the answer do not fit the deployment's context window."""

    fault = Fault.TOO_LONG

    def __init__(self, detail: str, *, sentence: str = "") -> None:
        super().__init__(Reason.PAYLOAD_TOO_LARGE, detail)
        self.sentence = sentence


class ModelRefused(Unprocessable, ModelError):
    """The model declined to answer, or the provider's content filter (`filtered`) stopped the prompt or the answer."""

    fault = Fault.REFUSED

    def __init__(self, detail: str, *, filtered: bool = False, sentence: str = "", used: Used = NOTHING) -> None:
        super().__init__(Reason.POISON_CONTENT, detail)
        self.filtered = filtered
        self.sentence = sentence
        self.used = used
