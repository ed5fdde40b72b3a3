"""A real Redis against the table of the ledger's states: every step from every state."""

from datetime import timedelta

import pytest

from shared.contracts.outcome import Code, Outcome, ending
from shared.ledger.ledger import Ledger, key_of
from shared.ledger.states import LedgerState, Step, after
from shared.redis import FailFastRedis
from tests.support.builders import NOW, a_request

REQUEST = a_request(ask_digest="d", token="t1")
LATER = NOW + timedelta(seconds=31)
# The shortest way to each state.
WAYS: dict[LedgerState, tuple[Step, ...]] = {
    LedgerState.UNKNOWN: (),
    LedgerState.UNREAD: (Step.UNREAD,),
    LedgerState.BOUND: (Step.BIND,),
    LedgerState.ACCEPTED: (Step.ACCEPT,),
    LedgerState.CANCELLED: (Step.CANCEL,),
    LedgerState.DECIDED: (Step.DECIDE,),
    LedgerState.DELIVERED: (Step.ACCEPT, Step.DECIDE, Step.DELIVER),
}


async def take(ledger: Ledger, step: Step) -> None:
    # Retryable, or `REPEAT` would change nothing anywhere.
    answer = ending(REQUEST, Outcome.REFUSED, Code.BUDGET_EXCEEDED, retryable=True, retry_after=30, finished_at=NOW)
    match step:
        case Step.BIND:
            await ledger.bind(REQUEST, "t1", NOW)
        case Step.REPEAT:
            await ledger.bind(REQUEST, "t2", LATER)
        case Step.UNREAD:
            await ledger.unread(REQUEST, answer)
        case Step.ACCEPT:
            await ledger.accept(REQUEST)
        case Step.CANCEL:
            await ledger.cancel(REQUEST.request_id, REQUEST.tenant, REQUEST.caller)
        case Step.DECIDE:
            await ledger.decide(REQUEST, answer)
        case Step.DELIVER:
            await ledger.mark_delivered(REQUEST)
        case Step.STORE:
            await ledger.store(answer, REQUEST.tenant, REQUEST.caller)
        case Step.FORGET:
            await ledger.forget(REQUEST, "t1")


async def state_in(ledger: Ledger) -> LedgerState:
    entry = await ledger.find(key_of(REQUEST))
    return entry.state if entry else LedgerState.UNKNOWN


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("state", LedgerState)
async def test_every_step_leads_where_the_table_says(redis: FailFastRedis, state: LedgerState, step: Step) -> None:
    ledger = Ledger(redis)
    for before in WAYS[state]:
        await take(ledger, before)
    assert await state_in(ledger) is state
    await take(ledger, step)
    assert await state_in(ledger) is after(state, step)
