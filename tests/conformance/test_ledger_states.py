"""A real Redis against the table of the ledger's states: every step from every state."""

from datetime import timedelta

import pytest

from shared.contracts.outcome import Code, Outcome, ending
from shared.ledger.ledger import Ledger, key_of
from shared.ledger.states import State, Step, after
from shared.redis import FailFastRedis
from tests.support.builders import NOW, a_request

REQUEST = a_request(ask_digest="d", token="t1")
LATER = NOW + timedelta(seconds=31)
# The shortest way to each state.
WAYS: dict[State, tuple[Step, ...]] = {
    State.UNKNOWN: (),
    State.UNREAD: (Step.UNREAD,),
    State.BOUND: (Step.BIND,),
    State.ACCEPTED: (Step.ACCEPT,),
    State.UNWANTED: (Step.CANCEL,),
    State.CLAIMED: (Step.CLAIM,),
    State.TOLD: (Step.ACCEPT, Step.CLAIM, Step.SENT),
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
        case Step.CLAIM:
            await ledger.claim(REQUEST, answer)
        case Step.SENT:
            await ledger.sent(REQUEST)
        case Step.FILE:
            await ledger.file(answer, REQUEST.tenant, REQUEST.caller)
        case Step.FORGET:
            await ledger.forget(REQUEST, "t1")


async def state_in(ledger: Ledger) -> State:
    entry = await ledger.find(key_of(REQUEST))
    return entry.state if entry else State.UNKNOWN


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("state", State)
async def test_every_step_leads_where_the_table_says(redis: FailFastRedis, state: State, step: Step) -> None:
    ledger = Ledger(redis)
    for before in WAYS[state]:
        await take(ledger, before)
    assert await state_in(ledger) is state
    await take(ledger, step)
    assert await state_in(ledger) is after(state, step)
