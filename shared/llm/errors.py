"""What a model may refuse for good.

Unprocessable
├── ContextTooLong   the prompt does not fit the deployment's window   -> re-fit, or a larger deployment
└── ModelRefused     the provider's content filter refused it          -> tell the caller
"""

from shared.errors import Reason, Unprocessable


class ContextTooLong(Unprocessable):
    """The prompt and the answer do not fit the deployment's context window."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.PAYLOAD_TOO_LARGE, detail)


class ModelRefused(Unprocessable):
    """The provider's content filter refused the prompt, or the answer after `used` tokens."""

    def __init__(self, detail: str, used: int = 0) -> None:
        super().__init__(Reason.POISON_CONTENT, detail)
        self.used = used
