"""Who is who: request ids that cannot collide, message ids that are never wrongly taken for duplicates.

    {request}/{stage}              the first send of a stage
    {request}/{stage}/r{n}         its n-th retry
    {request}/{stage}/p{n}         its n-th replay, and everything that follows from it
    {request}/{stage}/p{n}/r{m}    a retry inside a replay
    {request}/reply                the outcome; a rerun's is {request}/reply/p{n}

A retry under the *same* id would be swallowed silently by a duplicate-detecting queue, and a deterministic
id makes a second send after a crash harmless.
"""

import base64
import hashlib
import re

# Service Bus refuses a longer message id (quotas: message/session ID, 128 characters).
MAX_ID = 128
# Also what a worker that was stopped handed back: `/r0.17`.
_RETRY = re.compile(r"/r\d+(\.\d+)?$")


def digest(*parts: str) -> str:
    """26 letters and digits that stand for `parts`; the lengths are hashed too, so `ab|c` is not `a|bc`."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        hashed.update(len(raw).to_bytes(8, "big") + raw)
    return base64.b32encode(hashed.digest()).decode().rstrip("=").lower()


def request_id(tenant: str, caller: str, message_id: str) -> str:
    """The request that `caller` of `tenant` means by `message_id`: same message, same request."""
    return "r" + digest(tenant, caller, message_id)


def stage_id(request: str, stage: str, run: str = "") -> str:
    """The id of a stage's message; `run` is `p{n}` in a replay."""
    return "/".join(filter(None, (request, stage, run)))


def retry_id(base: str, attempt: int) -> str:
    """The id of attempt number `attempt` (the first retry is attempt 2, and `/r1`)."""
    return f"{_RETRY.sub('', base)}/r{attempt - 1}"


def replay_run(number: int) -> str:
    """The name of the n-th replay."""
    return f"p{number}"
