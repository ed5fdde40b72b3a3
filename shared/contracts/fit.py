"""How large a request and its outcome may be, and how a larger outcome is cut. Pure.

An outcome that is decided and then refused by the broker would reach no caller. So it is cut, or becomes `failed
(PayloadTooLarge)`, before it is decided. Sizes are bytes of JSON, in which a character takes one to six.
"""

import re
from bisect import bisect_right

from pydantic_core import to_json

from shared.contracts.generate import MAX_BODY
from shared.contracts.outcome import Code, Outcome, RequestOutcome, Span
from shared.contracts.request import Request

# Service Bus takes messages of 256 KiB on Standard and on the emulator, properties and headers included:
# https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas
LARGEST_MESSAGE = 256 * 1024
# Subject, content type, queue, three ids of 128 characters of up to 4 bytes, tenant, caller and the attempt's marks
# are under 4 KiB. A caller's `tracestate` is passed on: 32 members of 513 characters (W3C Trace Context, 3.3.1).
PROPERTIES = 32 * 1024
LARGEST_OUTCOME = LARGEST_MESSAGE - PROPERTIES
# Of a question with its conversation: `retrieve.v1` then fits into a message, and `generate.v1` has room for passages.
LARGEST_REQUEST = MAX_BODY - PROPERTIES
# Bytes of `message` and `plan.why`, which are sentences for people.
SENTENCE = 4_000
MARK = " …"
TOO_LARGE = "the answer was cut: it was too large for a message"
_HALF_A_MARKER = re.compile(r"\s*\[[\d\s,]*$")


def fitted(answer: RequestOutcome, most: int = LARGEST_OUTCOME) -> RequestOutcome:
    """`answer` in at most `most` bytes; the same object when it is small enough.

    Everything but the text is cut first, to half of `most`, then the text; a citation whose mark is cut off is dropped.
    Becomes `too_large(answer)` when that drops all citations, or is not enough.
    """
    if _size(answer) <= most:
        return answer
    shorter = _with_short_words(answer, most // 2)
    if _size(shorter) > most:
        code = Code.TRUNCATED if shorter.code is Code.OK else shorter.code
        empty = shorter.replaced(text="", unverified=(), message=TOO_LARGE, truncated=True, code=code)
        room = most - _size(empty) - len(to_json([Span(start=most, end=most)]))
        text = _HALF_A_MARKER.sub("", clipped(shorter.text, room - 2 * len(MARK.encode()))) + MARK
        left = tuple(citation for citation in shorter.citations if f"[{citation.marker}]" in text)
        shorter = shorter.replaced(
            text=text,
            citations=left,
            # The list could be larger than what is left of the text: one span is always right.
            unverified=(Span(start=0, end=len(text)),) if shorter.unverified else (),
            truncated=True,
            code=code,
            message=shorter.message or TOO_LARGE,
        )
    lost_its_ground = bool(answer.citations) and not shorter.citations
    return too_large(answer) if lost_its_ground or _size(shorter) > most else shorter


def fitted_body(answer: RequestOutcome) -> tuple[RequestOutcome, bytes]:
    """`fitted(answer)`, and its JSON."""
    body = answer.encode()
    if len(body) <= LARGEST_OUTCOME:
        return answer, body
    shorter = fitted(answer)
    return shorter, shorter.encode()


def too_large(answer: RequestOutcome) -> RequestOutcome:
    """`failed (PayloadTooLarge)` in the place of `answer`, with its usage and cost."""
    return RequestOutcome(
        request_id=answer.request_id,
        correlation_id=answer.correlation_id,
        use_case=answer.use_case,
        outcome=Outcome.FAILED,
        code=Code.PAYLOAD_TOO_LARGE,
        message="the outcome was too large for a message",
        usage=answer.usage,
        cost=answer.cost,
        calls=answer.calls,
        trace_id=answer.trace_id,
        run=answer.run,
        accepted_at=answer.accepted_at,
        finished_at=answer.finished_at,
    )


def weight(request: Request) -> int:
    """The bytes that `request` takes up in every message of its path."""
    return len(request.model_dump_json(exclude_none=True).encode())


def clipped(text: str, most: int) -> str:
    """The longest beginning of `text` with at most `most` bytes as JSON, quotation marks not counted."""
    fits = bisect_right(range(1, len(text) + 1), most, key=lambda end: len(to_json(text[:end])) - 2)
    return text[:fits]


def _with_short_words(answer: RequestOutcome, room: int) -> RequestOutcome:
    """`answer` with its sentences, quotes and titles cut to about `room` bytes together."""
    # Title, section, quote, and the path with the numbers get a quarter each of what there is for a citation.
    share = room // max(1, len(answer.citations)) // 4
    citations = tuple(
        each.replaced(title=_cut(each.title, share), section=_cut(each.section, share), quote=_cut(each.quote, share))
        for each in answer.citations
    )
    plan = answer.plan and answer.plan.replaced(why=_cut(answer.plan.why, SENTENCE))
    return answer.replaced(message=_cut(answer.message, SENTENCE), plan=plan, citations=citations)


def _cut(text: str, most: int) -> str:
    """`text` in `most` bytes of JSON, and a mark if that is not all of it."""
    return text if (kept := clipped(text, most)) == text else kept + MARK


def _size(answer: RequestOutcome) -> int:
    return len(answer.encode())
