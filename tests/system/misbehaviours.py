"""What is promised when a provider misbehaves, for every fault that the local model knows (`MISBEHAVIOURS`).

A case is a fault, whether the model is asked for a stream, and what else there is: nothing (`alone`), a second
deployment that is well (`second`), or the fault passes after one call (`once`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

# How often one deployment may be paid for replies that are no completion, or that break off, for one request.
ALIKE, BROKEN_OFF = 3, 8
# A cause that repeats itself until the deadline: what ends the wait.
WAITED = frozenset({"expired/DeadlineExceeded", "refused/Overloaded"})
OK = frozenset({"answered/Ok"})


@dataclass(frozen=True)
class Promise:
    """How a request ends whose only deployment always misbehaves so.

    `ends`: outcome and code, any of them. `paid`: how often the provider is paid at the most. `says`: a part of a line
    of the generator's log about the request.
    """

    ends: frozenset[str]
    paid: int = 1
    says: str = ""


def _ends(*ends: str, paid: int = 1, says: str = "") -> Promise:
    return Promise(frozenset(ends), paid, says)


# Read as it is meant.
READ = """
    content-parts index-missing two-choices extra-fields text-plain surrogate-half invalid-utf8 reasoning-content
    reasoning think-tags thinking-tags think-no-opening think-empty odd-finish no-finish no-usage usage-null
    usage-null-field usage-null-first usage-strings usage-negative usage-huge usage-zero usage-float async-filter
    sse-empty-data sse-comments sse-multiline sse-cr sse-crlf sse-no-space sse-bom sse-split sse-lump no-done gzip
    error-after text-after-finish done-hang reset-after
""".split()
# A 200 that is no completion, or a connection that breaks off: the same at every attempt.
BROKEN = {
    "html-200": "Sign in", "html-as-json": "Sign in", "empty-200": "", "null-200": "", "list-200": "", "string-200": "",
    "broken-json": "", "error-200": "The server had an error", "error-detail-200": "Internal Server Error",
    "error-mid": "The server had an error", "choices-empty": "", "choices-null": "", "choices-missing": "",
    "choices-object": "", "content-number": "", "done-only": "", "cut": "", "cut-mid": "",
    "reset": "", "reset-mid": "", "hang": "", "hang-headers": "", "hang-mid": "",
}  # fmt: skip
CONFIGURATION = {
    "401": "Incorrect API key", "401-azure": "invalid subscription key", "403-html": "Sign in",
    "404-deployment": "does not exist", "404-model": "does not exist", "404-ollama": "not found, try pulling it first",
    "404-html": "Sign in", "413-html": "Request Entity Too Large", "422-vllm": "Extra inputs are not permitted",
    "422-tgi": "Template error", "429-quota": "exceeded your current quota", "402-credit": "Insufficient credits",
    "max-tokens-400": "max_completion_tokens", "temperature-400": "temperature", "stream-options-400": "stream_options",
    "stream-options-vllm": "stream_options",
}  # fmt: skip
BUSY = """
    429-plain 429-seconds 429-ms 429-date 429-date-far 429-date-past 429-huge 429-garbage 429-negative 429-reset
    429-azure 429-html error-429-200
""".split()
DOWN = {
    "302-login": "unreachable", "500": "The server had an error", "502-html": "502 Bad Gateway",
    "503-after": "overloaded", "503-loading": "Loading model", "504-html": "504 Gateway Time-out",
}  # fmt: skip
TOO_LONG = """
    ctx ctx-azure ctx-vllm ctx-vllm-new ctx-llamacpp ctx-sglang ctx-tgi ctx-ollama ctx-together error-ctx-200
""".split()

PROMISES: dict[str, Promise] = {
    **dict.fromkeys(READ, Promise(OK)),
    "length": _ends("answered/Truncated", "no_answer/Ungrounded"),
    "giant": _ends("answered/Truncated"),
    "drip": Promise(OK | WAITED, paid=BROKEN_OFF),
    **{fault: _ends("failed/InvalidReply", *WAITED, paid=BROKEN_OFF, says=says) for fault, says in BROKEN.items()},
    "empty-stop": _ends("failed/EmptyAnswer", says="without a word"),
    "message-null": _ends("failed/EmptyAnswer", says="without a word"),
    "content-null": _ends("failed/EmptyAnswer", says="without a word"),
    "length-empty": _ends("failed/ReasoningOnly", says="answer_tokens"),
    "think-unclosed": _ends("failed/ReasoningOnly", says="answer_tokens"),
    "tool-calls": _ends("failed/ToolCalled", says="tool"),
    "refusal": _ends("failed/ModelRefused", says="can't assist"),
    "cf-prompt": _ends("failed/ContentFiltered", paid=0, says="content management policy"),
    "cf-partial": _ends("failed/ContentFiltered", says="content filter"),
    "cf-empty": _ends("failed/ContentFiltered", says="content filter"),
    **{fault: _ends("failed/Misconfigured", paid=0, says=says) for fault, says in CONFIGURATION.items()},
    **{fault: Promise(WAITED, paid=ALIKE if fault == "error-429-200" else 0) for fault in BUSY},
    **{fault: Promise(WAITED, paid=0, says=says) for fault, says in DOWN.items()},
    **{fault: _ends("failed/NoModelFits", paid=2, says="does not fit") for fault in TOO_LONG},
}
# Of these a call learns, and is repeated.
LESSONS = ("max-tokens-400", "temperature-400", "stream-options-400", "stream-options-vllm")
# What the provider decides about the question is no reason to ask another one.
DECIDED = frozenset({"refusal", "cf-prompt", "cf-partial", "cf-empty", "length", "giant"})
# Faults of a stream: a whole reply has none of them.
STREAMED = frozenset(
    """usage-null-first async-filter sse-empty-data sse-comments sse-bom no-done done-only error-after text-after-finish
    stream-options-400 stream-options-vllm""".split()
)


@dataclass(frozen=True)
class Case:
    """A fault, and how the system meets it."""

    fault: str
    stream: bool
    company: str

    @property
    def name(self) -> str:
        """Of its use case and its deployment."""
        return f"x{self.fault}-{'stream' if self.stream else 'whole'}-{self.company}".replace("_", "-")

    @property
    def promise(self) -> Promise:
        """How it ends."""
        alone = PROMISES[self.fault]
        if self.company == "alone" or alone.ends == OK or self.fault in DECIDED:
            return alone
        # A wait of ten minutes or a day, which is what some ask for, is longer than the deadline.
        waits = WAITED if self.company == "once" and self.fault in ("429-date-far", "429-huge") else frozenset()
        return Promise(OK | waits, alone.paid + 1, alone.says)


def cases() -> Iterator[Case]:
    """All of them; what is read as it is meant ends so in any company, and only what breaks off does so in two ways."""
    for fault, promise in PROMISES.items():
        for stream in (True, False):
            if stream or fault not in STREAMED:
                yield Case(fault, stream, "alone")
            if promise.ends != OK and fault not in DECIDED and stream == (fault in BROKEN or fault in STREAMED):
                yield Case(fault, stream, "second")
                if fault in LESSONS or promise.ends & {"failed/NoModelFits", *WAITED}:
                    yield Case(fault, stream, "once")
