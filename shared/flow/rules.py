"""Which requests are admitted under overload. Pure; `tickets.py` runs the same rules as scripts in Redis.

limit   what the slots of all generators can do and the quotas of their models allow, and a little more, so that they
        never run dry; the little more waits in `retrieve` and `generate`, for less than a call takes
share   limit / tenants with work or waiting. A tenant below its share is admitted at once, beside any backlog,
        even beyond the limit (but never beyond twice the limit); above it only while there is room
"""

import math

from shared.flow.estimate import HALF_LIFE, Estimate

# Tickets per slot, and additional ones: a request spends some time on its way to a slot.
PER_SLOT, SPARE = 1.25, 4
# Assumed slots while no generator has announced any (scaled to zero, or starting).
SLOTS_UNKNOWN = 16
# Tenants below their share may together exceed the limit up to this factor.
MOST = 2
# What a held ask must have left, beyond what requests usually take: it should not be cut off by its deadline.
SAFETY, MARGIN = 1.25, 1.0


def limit(slots: int, quota: float | None = None) -> int:
    """How many requests may be in flight at once; `quota`: how many the quotas of the models allow."""
    there: float = slots or SLOTS_UNKNOWN
    return math.ceil(PER_SLOT * (there if quota is None else min(there, quota))) + SPARE


def admits(most: int, total: int, held: int, tenants: int) -> bool:
    """Whether a tenant that holds `held` of `total` tickets gets one more, among `tenants` with work or waiting."""
    if total < most:
        return True
    return held < most / max(1, tenants) and total < MOST * most and tenants > 1


def needs(usual: Estimate, now: float) -> float:
    """How many seconds a held ask must have left to be worth waiting for; without news for long, next to none."""
    fresh: float = 0.5 ** (max(0.0, now - usual.at) / HALF_LIFE)
    return MARGIN + fresh * (SAFETY * usual.mean + 2 * usual.deviation)
