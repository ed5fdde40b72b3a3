"""Mutations of decisions: one public method that decides otherwise, and the test that must turn red.

What goes wrong with an effect at a port is in `effects.py`, and small changes of what only decides are mutmut's
(`modules.py`). Here is what neither can express: a step that is left out, and a decision of code that also waits. Each
is a function in the place of one method, which it is given first. What it replaces is named by the object itself, not
by its text: the code may be rewritten, and a rename is found by the type checker.
"""

import asyncio
import functools
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from services.gateway.ask_consumer import AskConsumer
from services.gateway.dead_letter_consumer import DeadLetterConsumer
from services.gateway.http_endpoint import HttpEndpoint
from services.gateway.intake import Enqueued, Intake
from services.gateway.main import check_deadlines
from services.generator.breakers import DeploymentBreakers
from services.generator.citations import Verified, unverified, verify
from services.generator.completion import Completion
from services.generator.failover import spent_in_vain
from services.generator.first_completed import first_completed
from services.generator.leak import leaks
from services.generator.markup import inert, plain
from services.generator.numbers import Number, Reading
from services.generator.reasoning import without_reasoning
from services.generator.reply import usable_usage
from services.generator.structured import data_of
from shared.access.scope import TenantScope
from shared.bus.port import ENQUEUED_AT, BusUnavailable
from shared.bus.servicebus.inbox import SdkInbox
from shared.bus.servicebus.sender import Sender
from shared.ledger.ledger import Entry, Ledger
from shared.pacing.pacing import Pacing, Turn
from shared.pacing.rules import Granted
from shared.quoting import quoted
from shared.redis import FailFastRedis
from shared.worker.shared_breaker import Circuit, SharedBreaker
from shared.worker.slots import Share
from shared.worker.worker import Worker
from tests.mutation.promises import (
    ADAPTER,
    BREAKER,
    CANCELLATION,
    DEPLOYMENTS,
    ENDS,
    FIRST_COMPLETED,
    GATEWAY,
    GENERATOR,
    GUARANTEES,
    INJECTION,
    INTAKE,
    ODD_REPLIES,
    PACING,
    STEPS,
    STREAMS,
    STRUCTURED,
    UNAVAILABLE,
    Promise,
    delivery,
    request,
)

Method = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One method that does otherwise."""

    name: str
    target: Any
    instead: Method
    promises: tuple[Promise, ...]

    def apply(self) -> None:
        """Put it in the place of what it replaces, for the rest of this process."""
        is_property = isinstance(self.target, property)
        real = self.target.fget if is_property else self.target

        @functools.wraps(real)
        def mutated(*args: Any, **kwargs: Any) -> Any:
            return self.instead(real, *args, **kwargs)

        *path, name = real.__qualname__.split(".")
        if path:
            owner: Any = functools.reduce(getattr, path, sys.modules[real.__module__])
            setattr(owner, name, property(mutated) if is_property else mutated)
            return
        for module in list(sys.modules.values()):  # a function, wherever it was imported
            if getattr(module, name, None) is real:
                setattr(module, name, mutated)


BEHAVIOURS: Final[dict[str, Behaviour]] = {}


def mutation(target: Any, *promises: Promise) -> Callable[[Method], Method]:
    """Register the function below as what is done instead of `target`, a method, a property or a function."""

    def register(instead: Method) -> Method:
        name = instead.__name__.replace("_", "-")
        if name in BEHAVIOURS:
            raise ValueError(f"two mutations are called {name}")
        BEHAVIOURS[name] = Behaviour(name, target, instead, promises)
        return instead

    return register


class Port:
    """A port with some of its methods replaced."""

    def __init__(self, port: Any, **instead: Any) -> None:
        self._port, self._instead = port, instead

    def __getattr__(self, name: str) -> Any:
        return self._instead[name] if name in self._instead else getattr(self._port, name)


async def nothing(*_: Any, **__: Any) -> None:
    """Do nothing, whatever was asked."""


# -- a delivery: order, retries, locks


@mutation(
    Worker.process,
    delivery(
        "A dead message that was being told comes back as one to be worked on.",
        ENDS + "test_a_dead_message_is_not_handed_back_as_a_living_one",
    ),
)
async def dead_letter_handed_back(process: Method, worker: Worker[Any], delivered: Any) -> None:
    worker.consumer = replace(worker.consumer, archive=None)
    await process(worker, delivered)


@mutation(
    Share.in_hand,
    delivery(
        "A worker takes all there is, and holds locks on what it does not get to.",
        STEPS + "test_in_flight_work_is_bounded",
    ),
)
def unbounded_in_flight(in_hand: Method, share: Share) -> int:
    return 1_000_000


@mutation(
    Worker.run,
    delivery(
        "A rolling deployment hands back what would have been done in a second.",
        ENDS + "test_what_fits_the_grace_period_is_finished_and_the_rest_is_handed_back",
    ),
)
async def no_grace_period(run: Method, worker: Worker[Any], stopping: asyncio.Event, grace: timedelta) -> None:
    await run(worker, stopping, timedelta(0))


@mutation(
    Worker.__post_init__,
    delivery(
        "A message that kills its workers takes the delivery counts of all beside it along.",
        STEPS + "test_what_its_workers_may_have_died_of_is_worked_on_alone",
    ),
)
def suspects_in_company(post_init: Method, worker: Worker[Any]) -> None:
    bus = worker.bus

    def inbox(*of: Any, **how: Any) -> Any:
        real = bus.inbox(*of, **how)

        async def receive(*wait: Any, **how: Any) -> Any:
            delivered = await real.receive(*wait, **how)
            return delivered and Port(delivered, message=replace(delivered.message, delivery_count=0))

        return Port(real, receive=receive)

    worker.bus = Port(bus, inbox=inbox)
    post_init(worker)


@mutation(
    Worker.process,
    delivery(
        "What may kill the worker begins while others are in flight, and takes their delivery counts along.",
        STEPS + "test_what_its_workers_may_have_died_of_waits_for_what_is_in_flight",
    ),
)
async def suspect_begins_at_once(process: Method, worker: Worker[Any], delivered: Any) -> None:
    await process(worker, Port(delivered, message=replace(delivered.message, delivery_count=0)))


# -- the circuit breaker


@mutation(
    Worker.__post_init__,
    delivery(
        "While the breaker is open messages are received all the same.",
        GUARANTEES + "test_while_a_dependency_is_down_nothing_is_received",
    ),
)
def receive_and_bounce(post_init: Method, worker: Worker[Any]) -> None:
    breaker: Any = worker.breaker

    async def ask() -> Circuit:
        await breaker.ask()
        return Circuit.CLOSED

    port: Any = Port(breaker, ask=ask)
    worker.breaker = port
    post_init(worker)


@mutation(
    Worker.run,
    delivery(
        "While one replica probes for long, another one begins to probe as well.",
        ENDS + "test_a_probe_that_takes_long_is_kept_from_being_taken_over",
    ),
)
async def probe_not_kept(run: Method, worker: Worker[Any], *until: Any) -> None:
    port: Any = Port(worker.breaker, keep=nothing)
    worker.breaker = port
    await run(worker, *until)


@mutation(
    Worker.__post_init__,
    delivery(
        "Five failures in a week open the breaker, although thousands of calls between them went well.",
        ENDS + "test_a_breaker_is_told_of_work_that_went_well_and_not_of_what_was_given_up",
    ),
)
def success_not_reported(post_init: Method, worker: Worker[Any]) -> None:
    port: Any = Port(worker.breaker, succeeded=nothing)
    worker.breaker = port
    post_init(worker)


@mutation(
    Worker.process,
    delivery(
        "Each cancelled request closes the breaker of a dead model.",
        ENDS + "test_a_breaker_is_told_of_work_that_went_well_and_not_of_what_was_given_up",
    ),
)
async def given_up_is_a_success(process: Method, worker: Worker[Any], delivered: Any) -> None:
    await process(worker, delivered)
    if worker.breaker is not None:
        await worker.breaker.succeeded()


@mutation(
    SharedBreaker.succeeded,
    delivery(
        "The model works again, and no worker calls it.",
        BREAKER + "test_a_probe_that_works_lets_every_worker_receive",
    ),
)
async def breaker_stays_open(succeeded: Method, breaker: SharedBreaker) -> None:
    """It stays as it is."""


@mutation(
    DeploymentBreakers.ask,
    delivery(
        "One use case's dead model holds up the work of all others.",
        DEPLOYMENTS + "test_a_dead_deployment_is_not_called_and_the_others_are",
    ),
)
async def one_dead_holds_up_all(ask: Method, breakers: DeploymentBreakers) -> Circuit:
    await ask(breakers)
    return Circuit.OPEN


# -- quotas


@mutation(
    Pacing.turn,
    delivery(
        "Each replica uses the whole quota of a deployment.",
        PACING + "test_all_replicas_share_one_quota",
    ),
    delivery(
        "A provider that said when to come back is asked again before.",
        PACING + "test_a_throttle_stops_all_replicas_for_as_long_as_the_provider_says",
    ),
)
@asynccontextmanager
async def quota_not_asked_for(turn: Method, pacing: Pacing, *call: Any) -> AsyncIterator[Turn]:
    yield Turn(Granted(0, 0, 0, 0), is_local=False)


# -- one outcome, on time


@mutation(
    Intake.take,
    request(
        "A gateway that dies in between leaves a request without a sentinel.",
        INTAKE + "test_the_sentinel_is_sent_before_the_work_it_guards",
    ),
)
async def sentinel_after_the_work(take: Method, intake: Intake, *asked: Any) -> Any:
    taken = await take(intake, *asked)
    return replace(taken, envelopes=[*reversed(taken.envelopes)]) if isinstance(taken, Enqueued) else taken


@mutation(
    Intake.take,
    request(
        "When a stage is stopped, the caller is not told that its time is over.",
        INTAKE + "test_the_sentinel_is_sent_before_the_work_it_guards",
    ),
)
async def no_sentinel(take: Method, intake: Intake, *asked: Any) -> Any:
    taken = await take(intake, *asked)
    return replace(taken, envelopes=taken.envelopes[1:]) if isinstance(taken, Enqueued) else taken


@mutation(
    AskConsumer.arrival,
    request(
        "An ask that waited in the queue has its whole time again.",
        GATEWAY + "test_a_retry_of_an_ask_has_no_more_time_than_the_ask_had",
    ),
)
def retries_start_the_clock_anew(arrival: Method, consumer: AskConsumer, message: Any) -> Any:
    known = {name: value for name, value in message.properties.items() if name != ENQUEUED_AT}
    return arrival(consumer, replace(message, properties=known))


@mutation(
    AskConsumer.identify,
    request(
        "A retry of an ask is scheduled for after the end of its time to live.",
        GATEWAY + "test_the_time_to_live_of_an_ask_limits_its_retries",
    ),
)
def asks_tried_for_ever(identify: Method, consumer: AskConsumer, message: Any) -> Any:
    return replace(identify(consumer, message), deadline=None)


@mutation(
    DeadLetterConsumer.handle,
    request(
        "The caller of a request that was dead-lettered never hears of it.",
        INTAKE + "test_the_sender_of_a_dead_ask_is_told_why",
    ),
)
async def dead_letter_not_told(handle: Method, consumer: DeadLetterConsumer, *dead: Any) -> list[Any]:
    return []


# -- paid once, within the budget


@mutation(
    first_completed,
    request(
        "A model goes on writing an answer that was cancelled.",
        FIRST_COMPLETED + "test_cancelled_work_is_stopped_at_once",
    ),
)
async def cancelled_but_not_stopped(first_completed: Method, over: Any, work: Any) -> Any:
    over.close()
    return await work


@mutation(
    HttpEndpoint.__init__,
    request(
        "HTTP says 202 for a question that the broker did not take.",
        GATEWAY + "test_an_ask_that_was_not_enqueued_is_not_accepted_and_costs_nothing",
    ),
)
def accepted_but_not_enqueued(init: Method, endpoint: HttpEndpoint, *, send: Method, **ports: Any) -> None:
    async def quietly(envelope: Any) -> Any:
        try:
            return await send(envelope)
        except BusUnavailable:
            return None

    init(endpoint, send=quietly, **ports)


# -- to its caller


@mutation(
    AskConsumer.arrival,
    request(
        "A caller can ask in the name of any tenant.",
        GATEWAY + "test_a_body_cannot_say_whose_request_it_is",
    ),
)
def tenant_from_the_body(arrival: Method, consumer: AskConsumer, message: Any) -> Any:
    known = arrival(consumer, message)
    said = json.loads(message.body).get("tenant", known.caller.tenant)
    return replace(known, caller=known.caller.model_copy(update={"tenant": said}))


class Anybody(str):
    """A name that equals every other."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


@mutation(
    Ledger.find,
    request(
        "Any caller of a tenant reads, and cancels, what another one asked.",
        CANCELLATION + "test_a_request_of_another_caller_is_not_found",
    ),
)
async def outcomes_for_the_whole_tenant(find: Method, ledger: Ledger, key: str) -> Any:
    entry: Entry | None = await find(ledger, key)
    return entry and replace(entry, caller=Anybody())


@mutation(
    TenantScope.acl_class,
    request(
        "A cached answer is served to people who may not read what it is made of.",
        INTAKE + "test_a_known_answer_comes_from_the_cache_and_costs_nothing",
    ),
)
def cache_ignores_the_acl_class(acl_class: Method, scope: TenantScope) -> str:
    return ""


@mutation(
    check_deadlines,
    request(
        "A request may outlive the duplicate window, and be answered twice.",
        GATEWAY + "test_a_duplicate_window_shorter_than_the_longest_life_of_a_request_is_refused",
    ),
)
def any_duplicate_window(check_deadlines: Method, *_: Any) -> None:
    """No deadline is too long."""


@mutation(
    FailFastRedis.unavailable,
    request(
        "Each request waits to find out that Redis cannot be reached.",
        UNAVAILABLE + "test_a_redis_that_refuses_connections_is_tried_once",
    ),
)
def outage_not_remembered(unavailable: Method, redis: FailFastRedis) -> bool:
    return False


# -- what the model says


@mutation(
    verify,
    request(
        "What the model said is told although no document says it.",
        GENERATOR + "test_there_is_never_an_ungrounded_answer",
    ),
)
def everything_is_grounded(verify: Method, text: str, passages: Any) -> Verified:
    return Verified(text, verify(passages[0].text + " [1]", passages).citations)


@mutation(
    inert,
    request(
        "An answer carries an image whose address takes the conversation away, or a script.",
        INJECTION + "test_nothing_that_injected_text_asks_for_comes_out",
    ),
)
def markup_passed_on(inert: Method, text: str, passages: Any) -> str:
    return text


@mutation(
    plain,
    request(
        "An answer writes to the clipboard of the terminal that shows it.",
        INJECTION + "test_nothing_that_injected_text_asks_for_comes_out",
    ),
)
def escape_sequences_passed_on(plain: Method, reply: str) -> str:
    return reply


@mutation(
    leaks,
    request(
        "An answer repeats the system prompt, with the secrets in it.",
        INJECTION + "test_nothing_that_injected_text_asks_for_comes_out",
    ),
)
def prompt_passed_on(leaks: Method, *_: Any) -> bool:
    return False


@mutation(
    quoted,
    request(
        "The author of a document ends its passage in the prompt, and gives orders.",
        INJECTION + "test_nothing_that_injected_text_asks_for_comes_out",
    ),
)
def marks_of_documents_sent(quoted: Method, text: str) -> str:
    return text


@mutation(
    unverified,
    request(
        "A sentence that no document supports looks like those beside it.",
        GENERATOR + "test_a_use_case_decides_what_becomes_of_unverified_sentences",
    ),
)
def unverified_not_listed(unverified: Method, text: str) -> list[tuple[int, int]]:
    return []


@mutation(
    Reading.bears,
    request(
        "A wrong number is cited.",
        INJECTION + "test_nothing_that_injected_text_asks_for_comes_out",
    ),
)
def any_number_is_borne(bears: Method, there: Reading, number: Number) -> bool:
    return True


@mutation(
    data_of,
    request(
        "A caller that reads `data` gets another structure than the use case promises.",
        STRUCTURED + "test_a_reply_that_does_not_fit_is_repaired_once_and_paid",
    ),
)
def any_structure_is_valid(data_of: Method, reply: str, schema: Any, passages: Any) -> Any:
    return {}


@mutation(
    Completion.__post_init__,
    request(
        "A stream that broke off is taken for an answer.",
        STREAMS + "test_an_incomplete_answer_is_tried_again",
    ),
)
def half_an_answer_is_one(post_init: Method, answer: Completion) -> None:
    post_init(answer)
    answer.finish = "stop"


@mutation(
    without_reasoning,
    request(
        "The model's reasoning is told as its answer.",
        ODD_REPLIES + "test_a_complete_answer_is_read_however_it_is_sent",
    ),
)
def reasoning_is_told(without_reasoning: Method, text: str) -> str:
    return text


@mutation(
    spent_in_vain,
    request(
        "The same broken reply is paid for until the deadline.",
        GENERATOR + "test_calls_that_break_off_alike_are_not_paid_until_the_deadline",
    ),
)
def bought_again(spent_in_vain: Method, deployment: str, earlier: Any) -> None:
    return None


@mutation(
    usable_usage,
    request(
        "A token count that cannot be is charged.",
        ODD_REPLIES + "test_a_usage_that_cannot_be_is_replaced",
    ),
)
def every_count_is_charged(usable_usage: Method, reported: Any, **limits: Any) -> Any:
    return usable_usage(reported, **{**limits, "most_prompt": 10**12, "most_output": 10**12})


# -- the adapter


@mutation(
    Sender.send,
    delivery(
        "A message that was cancelled before its turn is sent all the same.",
        ADAPTER + "test_a_send_that_was_cancelled_before_its_turn_is_not_sent",
    ),
)
async def cancelled_and_sent(send: Method, sender: Sender, message: Any) -> None:
    await asyncio.shield(asyncio.ensure_future(send(sender, message)))


@mutation(
    SdkInbox.receive,
    delivery(
        "Messages are locked here that this worker cannot work on, while others have nothing to do.",
        ADAPTER + "test_nothing_is_locked_that_was_not_asked_for",
    ),
)
async def prefetched_unasked(receive: Method, inbox: SdkInbox, wait: timedelta, *, prefetch: int = 0) -> Any:
    return await receive(inbox, wait, prefetch=prefetch or 2)
