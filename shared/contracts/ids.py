"""Ids: request ids that cannot collide, and message ids that duplicate detection never drops by mistake.

    {request}/{stage}              the first send of a stage
    {request}/{stage}/r{n}         its n-th retry
    {request}/{stage}/p{n}         its n-th replay, and everything that follows from it
    {request}/{stage}/p{n}/r{m}    a retry inside a replay
    {request}/{stage}/a{n}         its n-th later admission, after a retryable outcome; then …/a{n}/p{m}, …/a{n}/r{m}
    {request}/ask/{token}/r{n}     the n-th retry of an ask on its own queue
    {request}/reply                the outcome; a rerun's is {request}/reply/p{n}
    {request}/reply/{token}        a reply to one ask alone: the outcome again for a repeat, that it could not be read,
                                   that its id belongs to another question; and the outcome of admission n > 0

A token identifies one sending of an ask: its redeliveries and retries share it, a repeat has another.

A queue with duplicate detection would silently drop a retry under the *same* id; a deterministic id makes a second send
after a crash harmless.
"""

import base64
import hashlib
import re
from urllib.parse import quote

# Service Bus refuses a longer message id (quotas: message/session ID, 128 characters).
MAX_ID = 128
# Also the copy that a worker hands back when it stops: `/r0.17`.
_RETRY = re.compile(r"/r\d+(\.\d+)?$")


def digest(*parts: str) -> str:
    """A hash of `parts` as 26 lower-case letters and digits (BLAKE2b, 128 bits, base 32).

    The lengths are hashed too, so that `ab|c` is not `a|bc`.
    """
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        hashed.update(len(raw).to_bytes(8, "big") + raw)
    return base64.b32encode(hashed.digest()).decode().rstrip("=").lower()


def request_id(tenant: str, caller: str, message_id: str, protocol: str = "") -> str:
    """The request that `caller` of `tenant` means by `message_id`: same message, same request.

    `protocol` is `http` for what came over HTTP, empty for a queue: an `Idempotency-Key` is never a `message_id`.
    """
    return "r" + digest(tenant, caller, message_id, *filter(None, [protocol]))


def escaped(name: str) -> str:
    """`name` as one part of a Redis key: different names stay different, and none contains a separator or a brace.

    ASCII letters and digits, `_`, `.`, `-` and `~` are unchanged. The empty name becomes `%`, because a hash tag of a
    Redis Cluster (`{…}`) must not be empty.
    """
    return quote(name, safe="", errors="surrogatepass") or "%"


def ask_token(reply_session: str | None, sequence_number: int, body: bytes) -> str:
    """The token of one sending of an ask: a digest of its reply address, first sequence number and body.

    The body is included because the numbers of a recreated queue start again.
    """
    return digest(reply_session or "", str(sequence_number), hashlib.blake2b(body, digest_size=16).hexdigest())


def stage_id(request: str, stage: str, run: str = "") -> str:
    """The id of a stage's message; `run` is `p{n}` in a replay (`Request.branch`)."""
    return "/".join(filter(None, (request, stage, run)))


def retry_id(base: str, attempt: int) -> str:
    """The id of attempt number `attempt` (the first retry is attempt 2, and `/r1`)."""
    return f"{_RETRY.sub('', base)}/r{attempt - 1}"


def replay_run(number: int) -> str:
    """The name of the n-th replay."""
    return f"p{number}"
