"""Whose fault a provider's error is: the SDK's exceptions, and errors inside a 200, in our words. Pure.

Providers spell one error in many ways, and compatible servers rarely set OpenAI's `code`, so their sentences count too.
The sentences below are those of OpenAI and Azure OpenAI ("maximum context length", "input tokens exceed the configured
limit", "exceeds the context window"), vLLM (the same with a numeric `code`; "longer than the maximum model length"),
llama.cpp (`exceed_context_size_error`, "exceeds the available context size", "Context size has been exceeded",
"too large to process"), llama-cpp-python ("exceed context window of"), SGLang ("longer than the model's context
length"), TGI ("`inputs` tokens + `max_new_tokens` must be <="), Ollama ("input length exceeds the context length",
"prompt too long"), LM Studio ("greater than the context length"), Anthropic ("prompt is too long"), Gemini ("exceeds
the maximum number of tokens"), Bedrock ("input is too long"), xAI ("maximum prompt length"), Kimi ("exceeded model
token limit"), Copilot ("token count of 65204 exceeds the limit"), Cohere and AI21 ("too many tokens"), Zhipu ("Prompt
exceeds max length"), Vertex AI ("only supports up to"), watsonx ("number of input tokens 9000 cannot exceed"), GitHub
Models (`tokens_limit_reached`), Alibaba ("输入长度超过").
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from shared.llm.deployments import Deployment
from shared.llm.errors import (
    NOTHING,
    ContextTooLong,
    Fault,
    InvalidReply,
    ModelDown,
    ModelError,
    ModelMisconfigured,
    ModelRefused,
    Throttled,
    Used,
)
from shared.text import brief

if TYPE_CHECKING:
    from openai import APIStatusError

# Characters of a provider's sentence that we keep.
SENTENCE = 300
# Then it is asked again: daily quotas are the longest that providers have.
LONGEST_WAIT = timedelta(days=1)
# Characters of an HTML page that are looked at: an error's body may have any length.
PAGE = 8192

_TOO_LONG_CODES = {
    "context_length_exceeded", "context_window_exceeded", "exceed_context_size_error", "max_tokens_per_request",
    "model_context_window_exceeded", "request_too_large", "string_above_max_length", "tokens_limit_reached",
}  # fmt: skip
_TOO_LONG = re.compile(
    r"(maximum|max|supported) (context|prompt|model|input|sequence|allowed) (length|size|window)"
    r"|(exceed|overflow|(longer|greater|larger|more) than|too (long|large) for|beyond|bigger than)[^.]{0,60}"
    r"\b(context|model'?s?|model token|input token|prompt token) ?(token)? ?(length|window|size|limit)"
    r"|\b(context|prompt|input) (length|window|size)[^.]{0,40}(exceed|overflow|too (small|short))"
    r"|\bcontext[ _](overflow|limit exceeded)"
    r"|\b(input|prompt|request|messages?|string)( \([^)]*\))? (is |are |was )?too (long|large)"
    r"|\btokens? (count|limit)?[^.]{0,40}exceeds? (the |your )?(configured |model |maximum )?(limit|number|maximum)"
    r"|exceeds? the maximum (number of|allowed) (input )?(tokens|length)"
    r"|exceeds? the maximum allowed length"
    r"|\binputs?`? (tokens|must have less than)[^.]{0,80}(<=|less than|must be)|must have less than \d+ tokens"
    r"|reduce (the length of |your |the number of tokens in )(the |your )?(input |prompt|messages?)"
    r"|too large to process"
    r"|too many tokens"
    r"|\b(prompt|input|messages?) exceeds? (the )?max(imum)? length"
    r"|\b(input )?token count is \d+[^.]{0,40}only supports up to"
    r"|number of (input )?tokens \d+ cannot exceed"
    r"|(输入|上下文)[^。]{0,20}(超过|超出|过长)",
    re.IGNORECASE,
)
# A 429 for a request that is larger than the whole quota of a minute: waiting does not help, a smaller one does.
_LARGER_THAN_THE_QUOTA = re.compile(r"request too large|tokens must be reduced", re.IGNORECASE)
_REFUSED_CODES = {
    "content_filter", "content_policy_violation", "data_inspection_failed", "invalid_prompt", "moderation_blocked",
    "responsibleaipolicyviolation", "sensitive_content",
}  # fmt: skip
_REFUSED = re.compile(
    r"content (management|safety|moderation) |content[ _-]filter(ed)?\b|flagged (as|by|for)\b"
    r"|violat\w+ (our|the) usage",
    re.IGNORECASE,
)
_NO_QUOTA_CODES = {
    "access_terminated", "account_deactivated", "billing_hard_limit_reached", "billing_not_active",
    "insufficient_quota", "insufficient_balance",
}  # fmt: skip
_NO_QUOTA = re.compile(r"insufficient (balance|credit|fund)|credit balance is too low|out of credits", re.IGNORECASE)
_BUSY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_DENIED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
# Of a 402 or 403: not the key is wrong, but what it may spend.
_UNPAID = re.compile(r"credits?\b|quota|billing|balance|payment|spending|subscription", re.IGNORECASE)
# MiniMax's codes inside a 200 (platform.minimax.io, "Error Codes"), as others call them.
_MINIMAX = {
    1002: "rate_limit_exceeded", 1004: "invalid_api_key", 1008: "insufficient_balance", 1026: "sensitive_content",
    1027: "sensitive_content", 1039: "rate_limit_exceeded", 2013: "invalid_request_error", 2049: "invalid_api_key",
}  # fmt: skip
# Of an error inside a 200, which has no status of its own.
_BUSY_CODES = {
    "rate_limit_exceeded", "rate_limit_error", "ratelimitreached", "requests", "resource_exhausted", "throttled",
    "throttling", "too_many_requests", "toomanyrequests", "tokens",
}  # fmt: skip
_OURS_CODES = {
    "authentication_error", "badrequesterror", "deploymentnotfound", "invalid_api_key", "invalid_request_error",
    "model_not_found", "not_found_error", "notfounderror", "permission_error", "unsupported_parameter",
    "unsupported_value",
}  # fmt: skip

_TITLE = re.compile(r"<title[^<>]*>([^<]*)", re.IGNORECASE)
_MARKUP = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    # pydantic quotes what it refuses: our prompt.
    (re.compile(r"""(['"]input['"]\s*:).*"""), r"\1 …"),
    (re.compile(r"(https?://)[^\s/@\"'<>]+@", re.IGNORECASE), r"\1…@"),
    (re.compile(r"(https?://[^\s?\"'<>]+)\?[^\s\"'<>]*", re.IGNORECASE), r"\1?…"),
    (re.compile(r"\b(bearer|basic|apikey)\s+[\w.~+/=*-]{6,}", re.IGNORECASE), r"\1 …"),
    (
        re.compile(
            r"\b((?:api|access|subscription|account|shared)?[-_ ]?(?:key|secret|signature|password|sig)s?)"
            r"([\"']?\s*[:=]\s*[\"']?)[^\s\"',;)]{4,}",
            re.IGNORECASE,
        ),
        r"\1\2…",
    ),
    # "too many tokens: 4292" is no secret.
    (re.compile(r"(tokens?[\"']?\s*[:=]\s*[\"']?)(?=\S*\d)(?=\S*[A-Za-z])[^\s\"',;)]{8,}", re.IGNORECASE), r"\1…"),
    (re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf|key|pat|ghp)[-_][\w*.-]{6,}|\b(?:AIza|AKIA|tgp_|nvapi-)[\w-]{10,}"), "…"),
    (re.compile(r"\beyJ[\w-]+\.[\w.-]+"), "…"),
    (re.compile(r"\b(?=\w*\d)(?=\w*[A-Za-z])[A-Za-z0-9+/_]{28,}={0,2}"), "…"),
    (re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+"), "…@…"),
)


@dataclass(frozen=True, slots=True)
class Said:
    """What a provider says about an error: its sentence (redacted, short), its codes in lower case, the parameter."""

    sentence: str = ""
    codes: frozenset[str] = frozenset()
    param: str = ""


def translate(error: Exception, deployment: Deployment) -> Exception:
    """What an `error` of the SDK or its HTTP client means for the work; raise the result `from` it.

    The result is a `ModelError`; a bug is returned unchanged.
    """
    import httpx2
    import openai

    name = deployment.name
    match error:
        case openai.APIConnectionError():  # time-outs are among them
            why = redacted(str(error.__cause__ or error)) or type(error.__cause__ or error).__name__
            return ModelDown(f"{name}: the model is unreachable: {why}", sentence=why)
        case openai.APIStatusError():
            return _from_status(error, name)
        case openai.APIError() | httpx2.HTTPError():
            # Without a status: the provider broke off inside an answer. Reading the body ourselves, we see what the
            # HTTP client below the SDK says; a reset has no text.
            why = redacted(str(error)) or type(error).__name__
            return ModelDown(f"{name}: the connection broke off inside the answer: {why}", sentence=why)
        case json.JSONDecodeError():
            return InvalidReply(f"{name}: the reply is not JSON")
        case _:
            return error


def error_in(body: object, name: str, *, used: Used = NOTHING) -> ModelError:
    """The error that a provider sent as, or inside, a 200: `body` is the value of its `error`."""
    about = said(body)
    status = next((int(code) for code in about.codes if code.isdecimal() and 400 <= int(code) < 600), None)
    return _made(fault_of(status, about), status, about, name, timedelta(0), used)


def fault_of(status: int | None, about: Said) -> Fault:
    """The class of an error; `status` is None inside a 200."""
    throttled = status in _BUSY if status is not None else not about.codes.isdisjoint(_BUSY_CODES)
    too_long = _LARGER_THAN_THE_QUOTA if throttled else _TOO_LONG
    if not about.codes.isdisjoint(_TOO_LONG_CODES) or too_long.search(about.sentence):
        return Fault.TOO_LONG
    if not about.codes.isdisjoint(_NO_QUOTA_CODES) or _NO_QUOTA.search(about.sentence):
        return Fault.CONFIGURATION
    if throttled:
        return Fault.THROTTLED
    if not about.codes.isdisjoint(_REFUSED_CODES) or _REFUSED.search(about.sentence):
        return Fault.REFUSED
    if status is None:
        return Fault.DOWN if about.codes.isdisjoint(_OURS_CODES) else Fault.CONFIGURATION
    if status == HTTPStatus.NOT_IMPLEMENTED:  # llama.cpp's "does not support embeddings": waiting does not help
        return Fault.CONFIGURATION
    return Fault.DOWN if status >= HTTPStatus.INTERNAL_SERVER_ERROR else Fault.CONFIGURATION


def said(body: object) -> Said:
    """What the body of an error says, in any provider's shape: JSON of several kinds, plain text, HTML."""
    codes: set[str] = set()
    param = ""
    sentence = ""
    # Outer before inner: {"error": {"message": …, "innererror": {"code": …}}}; "errors" and "detail" may be lists.
    left: list[object] = [body]
    for _ in range(8):
        if not left:
            break
        match left.pop(0):
            case str() as text:
                sentence = sentence or text_of(text)
            case [first, *_]:
                left.append(first)
            case dict() as found:
                codes.update(
                    str(found[key]).lower() for key in ("code", "type", "status", "error_type") if found.get(key)
                )
                where = found.get("param") or found.get("loc")
                if where and not param:
                    param = str(where[-1]) if isinstance(where, list) else str(where)
                texts = [
                    found[key] for key in ("message", "msg", "error_description") if isinstance(found.get(key), str)
                ]
                if texts and not sentence:
                    named = f"{param}: " if "msg" in found and param else ""
                    sentence = f"{named}{text_of(texts[0])}"
                left += [found[key] for key in ("error", "detail", "errors", "innererror") if found.get(key)]
    return Said(redacted(sentence), frozenset(codes), param)


def text_of(text: str) -> str:
    """Plain text; of an HTML page its title, or its words."""
    if text.lstrip()[:1] != "<":
        return text
    page = text[:PAGE]
    title = _TITLE.search(page)
    if title and title[1].strip():
        return f"an HTML page, {brief(title[1], 120)!r}"
    return f"an HTML page, {brief(_MARKUP.sub(' ', page), 120)!r}"


def redacted(text: str) -> str:
    """`text` in one line of at most `SENTENCE` characters, without keys, tokens, query strings and e-mail addresses."""
    # Cut twice: the beginning of a secret that the cut leaves would not be known as one.
    short = brief(text, 4 * SENTENCE)
    for pattern, replacement in _SECRETS:
        short = pattern.sub(replacement, short)
    return brief(short, SENTENCE)


def wait_asked(headers: Mapping[str, str], now: datetime | None = None) -> timedelta:
    """The wait in `Retry-After-Ms` or `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3); 0 without either.

    At most `LONGEST_WAIT`: it stops all replicas, and a number in a wrong unit may be later than any date.

    A date counts from the response's own `Date`, so that clocks need not agree; without one from `now`.
    """
    for name, unit in (("retry-after-ms", timedelta(milliseconds=1)), ("retry-after", timedelta(seconds=1))):
        try:
            return min(LONGEST_WAIT, max(timedelta(0), float(headers[name]) * unit))
        except OverflowError:
            return LONGEST_WAIT if float(headers[name]) > 0 else timedelta(0)
        except (KeyError, ValueError):
            continue
    back_at = _date(headers.get("retry-after"))
    if back_at is None:
        return timedelta(0)
    return min(LONGEST_WAIT, max(timedelta(0), back_at - (_date(headers.get("date")) or now or datetime.now(UTC))))


def _date(text: str | None) -> datetime | None:
    try:
        found = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _from_status(error: "APIStatusError", name: str) -> ModelError:
    about = said(error.body)
    return _made(
        fault_of(error.status_code, about),
        error.status_code,
        about,
        name,
        wait_asked(error.response.headers),
        NOTHING,
    )


def _made(fault: Fault, status: int | None, about: Said, name: str, after: timedelta, used: Used) -> ModelError:
    answered = f"answered {status}" if status is not None else "sent an error inside its answer"
    words = f": {about.sentence}" if about.sentence else ""
    match fault:
        case Fault.TOO_LONG:
            return ContextTooLong(f"{name}: the prompt does not fit the model{words}", sentence=about.sentence)
        case Fault.REFUSED:
            why = f"{name}: the provider's content filter refused the prompt{words}"
            return ModelRefused(why, filtered=True, sentence=about.sentence, used=used)
        case Fault.THROTTLED:
            return Throttled(f"{name}: the model {answered}{words}", after=after, sentence=about.sentence)
        case Fault.DOWN:
            kind = ModelDown if status is not None else InvalidReply
            return kind(f"{name}: the model {answered}{words}", after=after, sentence=about.sentence, used=used)
        case _:
            if status == HTTPStatus.PAYMENT_REQUIRED or (
                status == HTTPStatus.FORBIDDEN and _UNPAID.search(about.sentence)
            ):
                cure = "check credits, quota and billing of the account"
                why = f"{name}: the provider does not serve our account ({status}); {cure}{words}"
            elif status in _DENIED:
                why = f"{name}: the model refused our credentials ({status}); check key_env in models.yaml{words}"
            else:
                why = f"{name}: the model refused the request ({status or 'inside a 200'}); check models.yaml{words}"
            return ModelMisconfigured(why, status=status, sentence=about.sentence, param=about.param)


def error_of(completion: Mapping[str, Any]) -> object:
    """The error inside a body that came with a 200; None: there is none."""
    if error := completion.get("error"):
        return error if isinstance(error, (str, dict, list)) else completion
    # vLLM and SGLang send the error itself, with `object: error`; FastAPI sends `detail`; gateways `code` and `msg`.
    if completion.get("object") == "error":
        return completion
    if completion.get("choices"):
        return None
    match completion.get("base_resp"):
        case {"status_code": code, "status_msg": sentence} if code:
            return {"code": _MINIMAX.get(code, code), "message": sentence}
    return completion if any(completion.get(each) for each in ("detail", "message", "msg", "errors")) else None
