"""`outcomes.md`: a sentence for every outcome, code and dead-letter reason. A test sees to it that none is missing."""

from collections.abc import Mapping

from ops.reference.text import Files, markdown, table
from shared.contracts.outcome import CacheState, Code, Outcome
from shared.errors import Reason

PAGE = "docs/reference/outcomes.md"

OUTCOMES: Mapping[Outcome, str] = {
    Outcome.ANSWERED: "There is an answer, with at least one citation that was checked against the passage it names.",
    Outcome.NO_ANSWER: "The question was worked on, and the documents this caller may read do not answer it.",
    Outcome.REFUSED: "It was not worked on: it asks for something that this caller may not have or spend, or not now.",
    Outcome.EXPIRED: "The deadline passed first. It is said at most 15 s after the deadline.",
    Outcome.FAILED: "It could not be read, or not be worked on to the end; `code` and `message` say why.",
    Outcome.CANCELLED: "The caller cancelled it before it had an outcome.",
}

CODES: Mapping[Code, str] = {
    Code.OK: "All is well; the answer is in `text`.",
    Code.NOT_IN_DOCUMENTS: "No passage that this caller may read answers it. Ask otherwise, or add a document.",
    Code.UNGROUNDED: "The model wrote something that could not be traced to a retrieved passage, so it is withheld.",
    Code.SCHEMA_INVALID: "A message is not JSON or lacks a field; `message` names it. Mend it and send anew; the same "
    "id will do.",
    Code.SCHEMA_UNSUPPORTED: "The `subject` names a kind or version that is not read here; `message` lists those read.",
    Code.UNKNOWN_USE_CASE: "There is no use case of that name, or none was named by a caller that has several.",
    Code.NOT_ALLOWED: "The use case exists, but this caller is not listed for it in `callers.yaml`.",
    Code.REPLY_TO_NOT_ALLOWED: "`reply_to` is not one of this caller's reply queues; the outcome is in its first.",
    Code.QUESTION_TOO_LONG: "The question has more tokens than the use case allows. It is never cut; shorten it.",
    Code.ID_REUSED: "Its `message_id` or `Idempotency-Key` belongs to another question (or use case, conversation, "
    "cache mode) of the last day. Only this ask hears it. A new or corrected question needs a new one.",
    Code.BUDGET_EXCEEDED: "The tenant's tokens for this minute are spent; `retry_after` says when to come back.",
    Code.OVERLOADED: "There is more work than can end in time; nothing was charged. Ask again after `retry_after`.",
    Code.DEADLINE_EXCEEDED: "Nobody waits for the answer any more. Give it a longer `time_to_live`, or ask again.",
    Code.RETRIES_EXHAUSTED: "All attempts failed. An ask is tried until its deadline instead, and has `expired` then.",
    Code.NO_MODEL_FITS: (
        "No deployment of the use case may answer: none is a chat deployment in its regions, or none has a window for "
        "the question and its answer; `message` says which. For the operator to mend, or shorten the question."
    ),
    Code.MODEL_REFUSED: "The provider's content filter refused the prompt or the answer. Asking again will not help.",
    Code.POISON_CONTENT: "A body that no parser should be given: not UTF-8, nested too deeply, half a surrogate pair.",
    Code.PAYLOAD_TOO_LARGE: "A message is larger than the broker takes (256 KiB): shorten the conversation.",
    Code.UNAUTHORIZED: "The sender, or a service behind us, did not accept the credentials.",
    Code.MISCONFIGURED: (
        "A worker's configuration does not fit: the provider refuses the request that we make of it (400, 404, 422), "
        "the collection holds vectors of another length, a use case is not deployed everywhere. Your message is good; "
        "it is for the operator to mend. Then ask again, with a new id."
    ),
    Code.CRASHED: "A fault on our side; the message is kept for us to look at. Asking again may work.",
    Code.CANCELLED: "Cancelled by the caller.",
}

HTTP_CODES: Mapping[str, tuple[str, str]] = {
    "NotFound": ("404", "No such address, or no such request of this caller; outcomes are kept for a day."),
    "MethodNotAllowed": ("405", "The address takes other methods."),
    "BadRequest": ("400", "Not a request of HTTP/1.1 as this server reads it, or two keys; `detail` says what."),
    "RequestTimeout": ("408", "The head or the body of the request took too long."),
    "UnsupportedMediaType": ("415", "The body is not `application/json`."),
    "TooManyRequests": ("429", "Too many attempts with wrong keys, or requests before the first response."),
    "RequestHeaderFieldsTooLarge": ("431", "The headers are too many, or too large."),
    "ServiceUnavailable": ("503", "The broker or Redis is away. Repeat it with the same `Idempotency-Key`."),
}

CACHE: Mapping[CacheState, str] = {
    CacheState.HIT: "The answer was given before, to a caller with the same rights, from documents that still stand.",
    CacheState.MISS: "It was worked out: not in the cache, not looked for (`cache: refresh`), or Redis was away.",
    CacheState.OFF: "The use case keeps no answers, or there is no answer to keep.",
}

REASONS: Mapping[Reason, str] = {
    Reason.SCHEMA_INVALID: "Not a valid message of its kind. Tell its sender; a replay of this body dies the same way.",
    Reason.SCHEMA_UNSUPPORTED: "A kind or version that is not read here. Deploy readers before senders, then replay.",
    Reason.UNAUTHORIZED: "The queue is no caller's, or our credentials were refused. Mend rights or keys, then replay.",
    Reason.PAYLOAD_TOO_LARGE: "The next message is too large to be sent. Lower the use case's `retrieval.candidates`.",
    Reason.DEADLINE_EXCEEDED: "Too late to be of use; the caller was told `expired`. Look at the age of the queue.",
    Reason.RETRIES_EXHAUSTED: "A document's dependency stayed away; see the description. Replay when it is back.",
    Reason.POISON_CONTENT: "A body or a document that must not be parsed again. Look at it with care.",
    Reason.BUDGET_EXCEEDED: "The tenant's budget was spent. Raise `tokens_per_minute` in `callers.yaml`, or let it be.",
    Reason.MISCONFIGURED: "The configuration does not fit; the description says what. Mend it, restart, then replay.",
    Reason.CRASHED: "A bug of ours. The log has the trace under the same message id; replay once it is mended.",
    Reason.TTL_EXPIRED: "The broker's word: it lay there until its time to live ended. Its consumer was slow, or away.",
    Reason.MAX_DELIVERY_COUNT: "The broker's word: worker after worker vanished while holding it. Look for kills.",
}


def files() -> Files:
    """The page."""
    return {
        PAGE: markdown(
            "Outcomes",
            "Every accepted request gets one outcome, an `answer.v1`. `outcome` says how it ended, `code` why; both "
            "are stable, `message` is for people. Repeat a request only if `retryable` is true, and then not before "
            "`retry_after`: under the same id it is admitted anew, and until then the same outcome is told again. "
            "Every other outcome is final for its id: a corrected question needs a new `message_id` or "
            "`Idempotency-Key`. Models and documents wrote `text`, `message` and the words in `citations`: escape or "
            "sanitise them for HTML and Markdown ([why, and what a checked citation proves]"
            "(../explanation/citations.md)).",
            _section("Outcomes", "outcome", {str(key): text for key, text in OUTCOMES.items()}),
            _section("Codes", "code", {str(key): text for key, text in CODES.items()}),
            "Over HTTP a problem has one of these codes too, or the name of its HTTP status where none of them says "
            "more:",
            table(("code", "status", "meaning"), [(f"`{code}`", *said) for code, said in HTTP_CODES.items()]),
            _section("Cache", "cache", {str(key): text for key, text in CACHE.items()}),
            _section("Dead-letter reasons", "reason", {str(key): text for key, text in REASONS.items()}),
        )
    }


def _section(title: str, column: str, rows: Mapping[str, str]) -> str:
    return f"## {title}\n\n" + table((column, "meaning"), [(f"`{key}`", text) for key, text in rows.items()])
