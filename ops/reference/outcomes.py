"""`outcomes.md`: a sentence for every outcome, code and dead-letter reason. A test checks that none is missing."""

from collections.abc import Mapping

from ops.reference.text import Files, markdown, table
from shared.contracts.outcome import CacheState, Code, Outcome
from shared.errors import Reason
from shared.llm.errors import Fault

PAGE = "docs/reference/outcomes.md"

OUTCOMES: Mapping[Outcome, str] = {
    Outcome.ANSWERED: "There is an answer, with at least one citation that was checked against its passage.",
    Outcome.NO_ANSWER: "The documents that this caller may read do not answer the question.",
    Outcome.REFUSED: "The request was not started: the caller may not do or spend this, or not now.",
    Outcome.EXPIRED: "The deadline passed first. This outcome arrives at most 15 s after the deadline.",
    Outcome.FAILED: "The request could not be read or not be completed; `code` and `message` say why.",
    Outcome.CANCELLED: "The caller cancelled the request before it had an outcome.",
}

CODES: Mapping[Code, str] = {
    Code.OK: "The answer is in `text`.",
    Code.NOT_IN_DOCUMENTS: "No passage that this caller may read has the answer. Rephrase, or add a document.",
    Code.UNGROUNDED: "The model's answer could not be traced to a retrieved passage, so it is withheld.",
    Code.PROMPT_LEAK: "The model's answer repeated the instructions of the use case, as injected text can make it "
    "do, so it is withheld. Ask about the documents; the operator finds `answer.withheld` in the generator's log.",
    Code.SCHEMA_INVALID: "The message is not JSON or lacks a field; `message` names it. Correct it and send it again; "
    "the same id may be used.",
    Code.SCHEMA_UNSUPPORTED: "The `subject` names an unsupported kind or version; `message` lists the supported ones.",
    Code.UNKNOWN_USE_CASE: "There is no use case of that name, or a caller with several use cases named none.",
    Code.NOT_ALLOWED: "The use case exists, but `callers.yaml` does not list it for this caller.",
    Code.REPLY_TO_NOT_ALLOWED: "`reply_to` is not one of this caller's reply queues; this outcome is in the first one.",
    Code.QUESTION_TOO_LONG: "The question has more tokens than the use case allows. It is never cut; shorten it.",
    Code.ID_REUSED: "The `message_id` or `Idempotency-Key` was used for another question (or use case, conversation, "
    "cache mode) in the last day. The first request is unaffected. Send the new question under a new id.",
    Code.BUDGET_EXCEEDED: "The budget of the tenant, the use case or the caller has too little left for this question; "
    "some calls may have been made. Ask again after `retry_after`; without it, a limit is smaller than one call needs.",
    Code.OVERLOADED: "The request cannot finish in time. Nothing was charged, unless `calls` lists it. Ask again after "
    "`retry_after`.",
    Code.DEADLINE_EXCEEDED: "The deadline passed. Set a longer `time_to_live`, or ask again.",
    Code.RETRIES_EXHAUSTED: "All attempts failed. Only work without a deadline ends so; an ask ends as `expired`.",
    Code.NO_MODEL_FITS: (
        "No deployment of the use case may answer: none is a chat deployment in its regions, or none has a window for "
        "the question, its answer and one passage; `message` says which. Shorten the question, or ask the operator."
    ),
    Code.MODEL_REFUSED: "The model declined to answer; `message` has its words. Rephrase; asking again does not help.",
    Code.CONTENT_FILTERED: "The provider's content filter stopped the prompt or the answer. Rephrase, or have the "
    "filter of the deployment changed. Asking again does not help.",
    Code.TRUNCATED: "The answer is in `text`, but its end is missing: it reached the use case's `answer_tokens`, or "
    "the size of a message. It is not cached. Raise `answer_tokens` for longer answers.",
    Code.EMPTY_ANSWER: "The model ended without a word. Check its chat template and the prompt, or use another model.",
    Code.REASONING_ONLY: "All of `answer_tokens` went into the model's reasoning. Raise `answer_tokens`, or lower "
    "`reasoning_effort` in models.yaml.",
    Code.TOOL_CALLED: "The model called a tool; none was offered. Switch tool calling off in the server, or use "
    "another model.",
    Code.INVALID_STRUCTURE: "The model's JSON did not fit the use case's `output_schema`, also after it was told why. "
    "Use a deployment with `structured_output: json_schema`, simplify the schema, or raise `answer_tokens`.",
    Code.INVALID_REPLY: "Every deployment's replies were broken in the same way several times, and were paid for. "
    "`message` says how; check the server.",
    Code.POISON_CONTENT: "The body must not be parsed: it is not UTF-8, is nested too deeply, or has a lone surrogate.",
    Code.PAYLOAD_TOO_LARGE: "A message is larger than the broker accepts (256 KiB). Shorten the conversation.",
    Code.UNAUTHORIZED: "The credentials of the sender were not accepted.",
    Code.MISCONFIGURED: (
        "A worker's configuration is wrong: the provider rejects our key, request or quota plan (400, 401, 403, 404, "
        "413, 422, `insufficient_quota`), vectors have another length, or a use case is not deployed everywhere. Your "
        "message is good; the operator must correct the configuration. Then ask again, with a new id."
    ),
    Code.CRASHED: "A bug in ragbus; the message is kept for its developers. Asking again may work.",
    Code.CANCELLED: "The caller cancelled the request.",
}

CALLER, OPERATOR, NOBODY, PROVIDER, NONE = "caller", "operator", "nobody: wait", "provider", ""
# Whose move it is.
MOVES: Mapping[Code, str] = {
    Code.OK: NONE,
    Code.NOT_IN_DOCUMENTS: NONE,
    Code.UNGROUNDED: CALLER,
    Code.PROMPT_LEAK: CALLER,
    Code.SCHEMA_INVALID: CALLER,
    Code.SCHEMA_UNSUPPORTED: CALLER,
    Code.UNKNOWN_USE_CASE: CALLER,
    Code.NOT_ALLOWED: CALLER,
    Code.REPLY_TO_NOT_ALLOWED: CALLER,
    Code.QUESTION_TOO_LONG: CALLER,
    Code.ID_REUSED: CALLER,
    Code.BUDGET_EXCEEDED: NOBODY,
    Code.OVERLOADED: NOBODY,
    Code.DEADLINE_EXCEEDED: NOBODY,
    Code.RETRIES_EXHAUSTED: NOBODY,
    Code.NO_MODEL_FITS: CALLER,
    Code.MODEL_REFUSED: PROVIDER,
    Code.CONTENT_FILTERED: PROVIDER,
    Code.TRUNCATED: OPERATOR,
    Code.EMPTY_ANSWER: OPERATOR,
    Code.REASONING_ONLY: OPERATOR,
    Code.TOOL_CALLED: OPERATOR,
    Code.INVALID_STRUCTURE: OPERATOR,
    Code.INVALID_REPLY: OPERATOR,
    Code.POISON_CONTENT: CALLER,
    Code.PAYLOAD_TOO_LARGE: CALLER,
    Code.UNAUTHORIZED: CALLER,
    Code.MISCONFIGURED: OPERATOR,
    Code.CRASHED: OPERATOR,
    Code.CANCELLED: NONE,
}

# Of a model call: what it is, what ragbus does, the code that it can end with, whose move it then is.
FAULTS: Mapping[Fault, tuple[str, str, str, str]] = {
    Fault.CALLER: ("Never of a provider's error: our request is made from configuration.", "–", "–", CALLER),
    Fault.CONFIGURATION: (
        "400, 401, 402, 403, 404, 413, 422, a refused parameter, `insufficient_quota`, vectors of another length.",
        "The next deployment, at once. A refused parameter is left out from then on.",
        "`Misconfigured`, `EmptyAnswer`, `ReasoningOnly`, `ToolCalled`, `InvalidStructure`",
        OPERATOR,
    ),
    Fault.THROTTLED: (
        "408, 409, 425, 429, also as an error inside a 200.",
        "Waits as long as the provider asks, or the next deployment.",
        "`DeadlineExceeded`, `Overloaded`",
        NOBODY,
    ),
    Fault.DOWN: (
        "Unreachable, 5xx, a time-out, a connection that breaks off, a 200 that is no completion.",
        "The next deployment, then again until the deadline; of calls that were paid for, at most three whose reply is "
        "no completion and eight that broke off, for each deployment.",
        "`DeadlineExceeded`, `InvalidReply`",
        NOBODY,
    ),
    Fault.REFUSED: (
        "The model declines, or the content filter stops the prompt or the answer.",
        "Nothing more.",
        "`ModelRefused`, `ContentFiltered`",
        PROVIDER,
    ),
    Fault.TOO_LONG: (
        "The prompt is longer than the model's window, in any provider's words.",
        "One smaller prompt, then the next deployment.",
        "`NoModelFits`",
        CALLER,
    ),
}

HTTP_CODES: Mapping[str, tuple[str, str]] = {
    "NotFound": ("404", "There is no such path, or this caller has no such request; outcomes are kept for a day."),
    "MethodNotAllowed": ("405", "The path supports other methods."),
    "BadRequest": ("400", "The request is not valid HTTP/1.1 for this server, or has two keys; see `detail`."),
    "RequestTimeout": ("408", "The headers or the body took too long to arrive."),
    "UnsupportedMediaType": ("415", "The body is not `application/json`."),
    "TooManyRequests": ("429", "Too many attempts with wrong keys, or too many requests before the first response."),
    "RequestHeaderFieldsTooLarge": ("431", "The headers are too many, or too large."),
    "ServiceUnavailable": ("503", "The broker or Redis is unavailable. Repeat with the same `Idempotency-Key`."),
}

CACHE: Mapping[CacheState, str] = {
    CacheState.HIT: "A caller with the same rights got this answer before, from documents that are still current.",
    CacheState.MISS: "The answer is new: none was cached, `cache: refresh` was set, or Redis was unavailable.",
    CacheState.OFF: "The use case has no cache, or there is no answer to cache.",
}

REASONS: Mapping[Reason, str] = {
    Reason.SCHEMA_INVALID: "The message is not valid for its kind. Tell its sender; a replay fails in the same way.",
    Reason.SCHEMA_UNSUPPORTED: "The kind or version is not supported. Deploy readers before senders, then replay.",
    Reason.UNAUTHORIZED: "The queue belongs to no caller, or our credentials were refused. Correct rights or keys, "
    "then replay.",
    Reason.PAYLOAD_TOO_LARGE: "The next message is too large to send. Lower the use case's `retrieval.candidates`.",
    Reason.DEADLINE_EXCEEDED: "The deadline passed; the caller got `expired`. Check the age of the queue.",
    Reason.RETRIES_EXHAUSTED: "A dependency stayed unavailable; the description names it. Replay when it is back.",
    Reason.POISON_CONTENT: "The body or document must not be parsed again. Handle it with care.",
    Reason.MISCONFIGURED: "The configuration is wrong; the description says how. Correct it, restart, then replay.",
    Reason.CRASHED: "A bug in ragbus. The log has the traceback under the same message id; fix it, then replay.",
    Reason.TTL_EXPIRED: "Set by the broker: the message's time to live ended. Its consumer was slow or not running.",
    Reason.MAX_DELIVERY_COUNT: "Set by the broker: each worker that held the message died. Look for killed workers.",
}


def files() -> Files:
    """The page."""
    return {
        PAGE: markdown(
            "Outcomes",
            "Every accepted request gets one outcome, an `answer.v1`. `outcome` says how it ended, `code` why; both "
            "are stable, `message` is for people. Repeat a request only if `retryable` is true, and not before "
            "`retry_after`: then the same id is admitted again; before that you get the same outcome. "
            "Every other outcome is final for its id: a corrected question needs a new `message_id` or "
            "`Idempotency-Key`. `text`, `message` and the words in `citations` come from models and documents: escape "
            "or sanitise them for HTML and Markdown ([why, and what a checked citation proves]"
            "(../explanation/citations.md)).",
            _section("Outcomes", "outcome", {str(key): text for key, text in OUTCOMES.items()}),
            "## Codes\n\n"
            + table(
                ("code", "meaning", "whose move"), [(f"`{code}`", text, MOVES[code]) for code, text in CODES.items()]
            ),
            "Over HTTP a problem has one of these codes, too, or the name of its HTTP status:",
            table(("code", "status", "meaning"), [(f"`{code}`", *said) for code, said in HTTP_CODES.items()]),
            "## Faults of model calls\n\nThe label `fault` of the metric `ragbus.model.faults`, of a call's span and "
            "of the log event `model.failed`, which also have the provider's own sentence, without its secrets.\n\n"
            + table(
                ("fault", "what it is", "what ragbus does", "code", "whose move"),
                [(f"`{fault}`", *said) for fault, said in FAULTS.items()],
            ),
            _section("Cache", "cache", {str(key): text for key, text in CACHE.items()}),
            _section("Dead-letter reasons", "reason", {str(key): text for key, text in REASONS.items()}),
        )
    }


def _section(title: str, column: str, rows: Mapping[str, str]) -> str:
    return f"## {title}\n\n" + table((column, "meaning"), [(f"`{key}`", text) for key, text in rows.items()])
