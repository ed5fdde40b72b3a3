"""Whether an ask waits for its budget. Pure."""

from datetime import datetime, timedelta

from shared.contracts.request import Request

# An ask that waited must have this much left: more than a retry needs (`shared/worker/retry.py`).
LEAST_LEFT = timedelta(seconds=3)


def comes_back(
    request: Request, wait: float | None, when_spent: str, now: datetime, usual: float = 0
) -> timedelta | None:
    """How long `request` waits; None: it is refused, by the use case's policy, or because it would be too late.

    `wait`: seconds until the budget has room; None: it never has. `usual`: seconds that the work then takes.
    """
    if when_spent == "refuse" or wait is None:
        return None
    back = timedelta(seconds=wait)
    return back if now + back + max(LEAST_LEFT, timedelta(seconds=usual)) < request.answer_by else None
