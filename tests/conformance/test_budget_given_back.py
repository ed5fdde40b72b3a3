"""Reserved tokens are returned once, however often they are corrected; on a real Redis."""

from shared.budget.tenant import TenantBudget
from shared.redis import FailFastRedis


async def test_a_reservation_that_is_corrected_repeatedly_is_returned_once(redis: FailFastRedis) -> None:
    """In a bucket that is not full: a full one would hide what is given back too often."""
    budget = TenantBudget(redis, lambda _tenant: 10_000)
    assert await budget.reserve("t", "r1", 900) is None
    assert await budget.reserve("t", "r2", 5_000) is None
    for _ in range(5):
        await budget.correct("t", "r1", 100)
    level = await redis.run(lambda connection: connection.hget("ragbus:{t}:budget", "level"))
    # 10,000 less 100 and 5,000, and what was refilled between the reservations, which is never more than was missing.
    assert 4_900 <= float(level or 0) <= 5_800
