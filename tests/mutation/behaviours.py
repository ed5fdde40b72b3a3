"""Behavioural mutations: a port that does otherwise than it promises, and the test that must turn red.

Each is a function in the place of one public method, which it is given first. What it replaces is named by the object
itself, not by its text: the code may be rewritten, and a rename is found by the type checker.
"""

import asyncio
import functools
import importlib
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from services.gateway.ask_consumer import AskConsumer
from services.gateway.dead_letter_consumer import DeadLetterConsumer
from services.gateway.expired_dead_letters import ExpiredDeadLetterScan
from services.gateway.http_endpoint import HttpEndpoint
from services.gateway.intake import Enqueued, Intake
from services.generator.first_completed import first_completed
from services.generator.handler import Generator
from shared.access.scope import TenantScope
from shared.answer_cache import AnswerCache
from shared.budget.tenant import TenantBudget
from shared.bus.port import ATTEMPT, ENQUEUED_AT, BusUnavailable, LockLost, MessageTooLarge, QueueFull
from shared.bus.servicebus.client import ServiceBus
from shared.contracts.envelope import Envelope, at_deadline
from shared.ledger.ledger import Entry, Ledger
from shared.redis import FailFastRedis, RedisUnavailable
from shared.worker.lease import Lease, holding
from shared.worker.outbox import life, retry_copy
from shared.worker.outcome_guard import OutcomeGuard
from shared.worker.shared_breaker import Circuit, SharedBreaker
from shared.worker.slots import Share
from shared.worker.worker import Worker
from tests.support.memory_bus import MemoryDelivery

Method = Callable[..., Any]

_WORKER = "tests/unit/shared/worker"
_STEPS = f"{_WORKER}/test_worker_steps.py::"
_ENDS = f"{_WORKER}/test_worker_ends.py::"
_GUARANTEES = f"{_WORKER}/test_worker_guarantees.py::"
_GUARD = f"{_WORKER}/test_outcome_guard.py::"
_CANCELLED = f"{_WORKER}/test_cancelled_work.py::"
_BREAKER = f"{_WORKER}/test_shared_breaker.py::"
_GATEWAY = "tests/unit/services/gateway/"
_INTAKE = f"{_GATEWAY}test_intake.py::"
_PROMISES = f"{_GATEWAY}test_gateway_guarantees.py::"
_GENERATOR = "tests/unit/services/generator/test_generator.py::"
_REDIS = "tests/conformance/test_redis_side.py::"
_BUS = "tests/conformance/test_bus_port.py::"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One port that does otherwise."""

    name: str
    breaks: str
    """What goes wrong with it, in a sentence."""
    target: Any
    instead: Method
    red: tuple[str, ...]
    """Node ids of tests that must fail, each of them: few and fast ones."""

    def apply(self) -> None:
        """Put it in the place of what it replaces, for the rest of this process."""
        is_property = isinstance(self.target, property)
        real = self.target.fget if is_property else self.target
        owner: Any = importlib.import_module(real.__module__)
        *path, name = real.__qualname__.split(".")
        for part in path:
            owner = getattr(owner, part)

        @functools.wraps(real)
        def mutated(*args: Any, **kwargs: Any) -> Any:
            return self.instead(real, *args, **kwargs)

        setattr(owner, name, property(mutated) if is_property else mutated)


BEHAVIOURS: Final[dict[str, Behaviour]] = {}


def mutation(target: Any, breaks: str, *red: str) -> Callable[[Method], Method]:
    """Register the function below as what is done instead of `target`, a method or a property."""

    def register(instead: Method) -> Method:
        name = instead.__name__.replace("_", "-")
        if name in BEHAVIOURS:
            raise ValueError(f"two mutations are called {name}")
        BEHAVIOURS[name] = Behaviour(name, breaks, target, instead, red)
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


def refusing(worker: Worker[Any], refusal: type[Exception], instead: Exception) -> None:
    """Have the bus of `worker` raise `instead` where it should raise `refusal`."""
    bus = worker.bus

    async def send(message: Any) -> None:
        try:
            await bus.send(message)
        except refusal as refused:
            raise instead from refused

    worker.bus = Port(bus, send=send)


def sending(worker: Worker[Any], change: Callable[[Any], Any]) -> None:
    """Have every message of `worker` changed on its way to the bus."""
    bus = worker.bus
    worker.bus = Port(bus, send=lambda message: bus.send(change(message)))


# -- a delivery: order, retries, locks


@mutation(
    Worker.process,
    "A worker that dies in between, or cannot reach the broker, loses the request.",
    _STEPS + "test_nothing_is_completed_that_was_not_sent",
)
async def complete_before_send(process: Method, worker: Worker[Any], delivery: Any) -> None:
    handle = worker.consumer.handle

    async def handle_and_complete(task: Any, attempt: int) -> Any:
        envelopes = await handle(task, attempt)
        await delivery.complete()
        return envelopes

    worker.consumer = replace(worker.consumer, handle=handle_and_complete)
    await process(worker, delivery)


@mutation(
    Worker.__post_init__,
    "The delivery is completed before the broker has taken what came of it.",
    _STEPS + "test_nothing_is_completed_that_was_not_sent",
)
def send_and_forget(post_init: Method, worker: Worker[Any]) -> None:
    bus, sending = worker.bus, set[Any]()

    async def send(message: Any) -> None:
        async def quietly() -> None:
            try:
                await bus.send(message)
            except BusUnavailable:
                return

        sending.add(asyncio.create_task(quietly()))

    worker.bus = Port(bus, send=send)
    post_init(worker)


@mutation(
    MemoryDelivery.complete,
    "The delivery counts as completed, and the broker delivers it again.",
    _STEPS + "test_the_result_is_sent_and_then_the_delivery_completed",
)
async def settle_lies(complete: Method, delivery: MemoryDelivery) -> None:
    """Nothing is completed."""


@mutation(
    MemoryDelivery.dead_letter,
    "Poison is thrown away, and its caller never hears of it.",
    _STEPS + "test_poison_is_dead_lettered_and_the_worker_goes_on",
)
async def poison_thrown_away(dead_letter: Method, delivery: MemoryDelivery, *reason: str) -> None:
    await delivery.complete()


@mutation(
    Worker.__post_init__,
    "The duplicate-detecting queue drops the retry, and the request is lost.",
    _STEPS + "test_work_for_later_becomes_a_scheduled_copy_under_a_new_id",
)
def retry_under_the_same_id(post_init: Method, worker: Worker[Any]) -> None:
    sending(
        worker,
        lambda message: replace(message, message_id=message.message_id.rpartition("/r")[0] or message.message_id),
    )
    post_init(worker)


@mutation(
    Worker.__post_init__,
    "Work for later comes back at once.",
    _STEPS + "test_a_redelivered_message_stays_hidden_until_its_time",
)
def retry_at_once(post_init: Method, worker: Worker[Any]) -> None:
    sending(worker, lambda message: replace(message, enqueue_at=None))
    post_init(worker)


@mutation(
    Worker.__post_init__,
    "Each retry believes that it is the first, and a request is retried without end.",
    _STEPS + "test_a_redelivered_message_stays_hidden_until_its_time",
)
def attempts_not_counted(post_init: Method, worker: Worker[Any]) -> None:
    sending(worker, lambda message: replace(message, properties={**message.properties, ATTEMPT: 1}))
    post_init(worker)


@mutation(
    retry_copy,
    "A retry has forgotten whose it is, its deadline, and what the sender wrote on its message.",
    _GUARANTEES + "test_a_copy_is_the_same_request_with_the_same_deadline_and_the_same_beginning",
)
def retry_without_properties(retry_copy: Method, message: Any, *rest: Any) -> Any:
    copy = retry_copy(message, *rest)
    return replace(copy, properties={ATTEMPT: copy.properties[ATTEMPT]})


@mutation(
    Worker.__post_init__,
    "The reply queue cannot recognise a second reply.",
    _STEPS + "test_the_result_is_sent_and_then_the_delivery_completed",
)
def random_reply_id(post_init: Method, worker: Worker[Any]) -> None:
    sending(worker, lambda message: replace(message, message_id=uuid.uuid4().hex))
    post_init(worker)


@mutation(
    Worker.__post_init__,
    "Work is begun for a request whose deadline has passed.",
    _STEPS + "test_late_work_is_not_done",
    _ENDS + "test_work_is_stopped_at_its_deadline_and_says_so",
)
def worker_clock_is_slow(post_init: Method, worker: Worker[Any]) -> None:
    clock = worker.clock
    worker.clock = lambda: clock() - timedelta(hours=1)
    post_init(worker)


@mutation(
    MemoryDelivery.renew,
    "Work that takes longer than its lock is done twice.",
    _GUARANTEES + "test_work_of_many_times_the_lock_is_still_ours_at_the_end",
)
async def lock_never_renewed(renew: Method, delivery: MemoryDelivery) -> datetime:
    return delivery.locked_until


@mutation(
    Lease.keep,
    "A handler works on after its delivery went to another worker.",
    _GUARANTEES + "test_within_a_second_of_hearing_that_the_lock_is_lost_the_work_has_stopped",
)
async def lock_loss_ignored(keep: Method, lease: Lease) -> None:
    try:
        await keep(lease)
    except LockLost:
        await asyncio.Event().wait()


@mutation(
    Lease.check,
    "A process that stood still sends, or schedules, what another worker has done meanwhile.",
    _STEPS + "test_after_a_pause_longer_than_its_lock_a_process_sends_nothing",
    _ENDS + "test_after_a_pause_longer_than_its_lock_no_retry_is_scheduled_either",
)
def effects_after_the_lock(check: Method, lease: Lease) -> None:
    """It is always ours."""


@mutation(
    Worker.process,
    "What was dead-lettered is gone once its caller was told: it cannot be looked at or replayed.",
    _GUARANTEES + "test_a_dead_message_is_archived_with_what_it_died_of_and_not_completed",
    _ENDS + "test_a_dead_message_is_not_handed_back_as_a_living_one",
)
async def dead_letter_not_archived(process: Method, worker: Worker[Any], delivery: Any) -> None:
    worker.consumer = replace(worker.consumer, archive=None)
    await process(worker, delivery)


@mutation(
    Share.in_hand,
    "A worker takes all there is, and holds locks on what it does not get to.",
    _STEPS + "test_in_flight_work_is_bounded",
)
def unbounded_in_flight(in_hand: Method, share: Share) -> int:
    return 1_000_000


@mutation(
    Worker.run,
    "A rolling deployment hands back what would have been done in a second.",
    _ENDS + "test_what_fits_the_grace_period_is_finished_and_the_rest_is_handed_back",
)
async def no_grace_period(run: Method, worker: Worker[Any], stopping: asyncio.Event, grace: timedelta) -> None:
    await run(worker, stopping, timedelta(0))


@mutation(
    Worker.__post_init__,
    "What does not fit the grace period waits for its lock to end, and counts as failed.",
    _STEPS + "test_what_does_not_fit_the_grace_period_is_handed_back_with_the_same_attempt",
)
def sigterm_drops_work(post_init: Method, worker: Worker[Any]) -> None:
    async def send(message: Any) -> None:
        raise BusUnavailable(message.queue)

    worker.bus = Port(worker.bus, send=send)
    post_init(worker)


@mutation(
    Worker.__post_init__,
    "A rolling deployment uses up the retries of whatever is under way.",
    _STEPS + "test_what_does_not_fit_the_grace_period_is_handed_back_with_the_same_attempt",
)
def sigterm_costs_an_attempt(post_init: Method, worker: Worker[Any]) -> None:
    def one_more(message: Any) -> Any:
        return replace(message, properties={**message.properties, ATTEMPT: message.properties[ATTEMPT] + 1})

    sending(worker, one_more)
    post_init(worker)


@mutation(
    Worker.__post_init__,
    "An answer that the broker refuses for its size counts as a bug of ours.",
    _ENDS + "test_what_the_broker_still_refuses_is_told_as_that_and_kept_as_that",
)
def too_large_is_a_crash(post_init: Method, worker: Worker[Any]) -> None:
    refusing(worker, MessageTooLarge, ValueError("too large"))
    post_init(worker)


@mutation(
    Worker.__post_init__,
    "A caller who does not fetch its answers has its requests dead-lettered.",
    _ENDS + "test_an_answer_for_a_full_queue_comes_later",
)
def a_full_queue_is_a_crash(post_init: Method, worker: Worker[Any]) -> None:
    refusing(worker, QueueFull, ValueError("full"))
    post_init(worker)


@mutation(
    Worker.__post_init__,
    "A message that kills its workers takes the delivery counts of all beside it along.",
    _STEPS + "test_what_its_workers_may_have_died_of_is_worked_on_alone",
)
def suspects_in_company(post_init: Method, worker: Worker[Any]) -> None:
    bus = worker.bus

    def inbox(*of: Any, **how: Any) -> Any:
        real = bus.inbox(*of, **how)

        async def receive(*wait: Any, **how: Any) -> Any:
            delivery = await real.receive(*wait, **how)
            return delivery and Port(delivery, message=replace(delivery.message, delivery_count=0))

        return Port(real, receive=receive)

    worker.bus = Port(bus, inbox=inbox)
    post_init(worker)


@mutation(
    Worker.__post_init__,
    "`/readyz` says that all is well on a worker that receives nothing.",
    _ENDS + "test_a_worker_that_was_cut_off_is_not_ready",
)
def ready_without_a_broker(post_init: Method, worker: Worker[Any]) -> None:
    connected: Any = Port(worker.connected, clear=lambda: None)
    worker.connected = connected
    post_init(worker)


@mutation(
    holding,
    "A hiccup of the broker costs every long call its lock.",
    _GUARANTEES + "test_a_renewal_that_fails_is_tried_again",
)
async def one_failed_renewal_loses_the_lock(holding: Method, delivery: Any, *work: Any) -> Any:
    async def renew() -> datetime:
        try:
            until: datetime = await delivery.renew()
            return until
        except BusUnavailable as unavailable:
            raise LockLost("at the first failure") from unavailable

    return await holding(Port(delivery, renew=renew), *work)


@mutation(
    life,
    "Messages die before their deadline, and callers are told `expired` too early.",
    _STEPS + "test_a_message_never_dies_before_its_deadline",
)
def a_second_lost_at_each_hop(life: Method, now: datetime, expires_at: datetime | None) -> Any:
    left = life(now, expires_at)
    return left and left - timedelta(seconds=1)


# -- the circuit breaker


@mutation(
    Worker.__post_init__,
    "While the breaker is open messages are received all the same.",
    _GUARANTEES + "test_while_what_the_work_needs_is_down_nobody_looks_into_the_queue",
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
    "While one replica probes for long, another one begins to probe as well.",
    _ENDS + "test_a_probe_that_takes_long_is_kept_from_being_taken_over",
)
async def probe_not_kept(run: Method, worker: Worker[Any], *until: Any) -> None:
    port: Any = Port(worker.breaker, keep=nothing)
    worker.breaker = port
    await run(worker, *until)


@mutation(
    Worker.__post_init__,
    "Five failures in a week open the breaker, although thousands of calls between them went well.",
    _ENDS + "test_a_breaker_is_told_of_work_that_went_well_and_not_of_what_was_given_up",
)
def success_not_reported(post_init: Method, worker: Worker[Any]) -> None:
    port: Any = Port(worker.breaker, succeeded=nothing)
    worker.breaker = port
    post_init(worker)


@mutation(
    Worker.process,
    "Each cancelled request closes the breaker of a model that is down.",
    _ENDS + "test_a_breaker_is_told_of_work_that_went_well_and_not_of_what_was_given_up",
)
async def given_up_is_a_success(process: Method, worker: Worker[Any], delivery: Any) -> None:
    await process(worker, delivery)
    if worker.breaker is not None:
        await worker.breaker.succeeded()


@mutation(
    SharedBreaker.succeeded,
    "The model works again, and no worker calls it.",
    _BREAKER + "test_a_probe_that_works_lets_every_worker_receive",
)
async def breaker_stays_open(succeeded: Method, breaker: SharedBreaker) -> None:
    """It stays as it is."""


# -- one outcome


@mutation(
    Ledger.find,
    "A redelivered message is worked on, and paid for, again.",
    _STEPS + "test_a_redelivered_message_sends_no_second_outcome",
)
async def ledger_knows_nothing(find: Method, ledger: Ledger, key: str) -> None:
    return None


@mutation(
    Ledger.decide,
    "Two workers send two different outcomes.",
    _STEPS + "test_the_first_outcome_that_is_decided_wins",
)
async def last_decision_wins(decide: Method, ledger: Ledger, request: Any, answer: Any, **delivered: bool) -> Any:
    entry: Entry = await decide(ledger, request, answer, **delivered)
    return replace(entry, answer=answer)


@mutation(
    Ledger.decide,
    "An outcome that the broker did not take counts as sent, and its caller waits forever.",
    _GUARANTEES + "test_an_outcome_that_was_not_sent_is_sent_by_the_next_worker",
)
async def noted_before_sent(decide: Method, ledger: Ledger, request: Any, answer: Any, **delivered: bool) -> Any:
    entry = await decide(ledger, request, answer, **delivered)
    await ledger.mark_delivered(request)
    return entry


@mutation(
    Ledger.decide,
    "Two workers that come to an outcome for one request both send it.",
    _GUARD + "test_what_another_worker_has_sent_meanwhile_is_not_sent_again",
)
async def sent_again(decide: Method, ledger: Ledger, request: Any, answer: Any, **delivered: bool) -> Any:
    entry: Entry = await decide(ledger, request, answer, **delivered)
    return replace(entry, delivered=False)


@mutation(
    OutcomeGuard.send,
    "A sentinel tells `expired` to a caller who has an answer.",
    _GUARANTEES + "test_a_sentinel_does_not_tell_expired_to_a_caller_who_has_an_answer",
)
async def outcome_not_decided(send: Method, guard: OutcomeGuard, envelope: Envelope, post: Method) -> Any:
    return await send(guard, replace(envelope, decide=False), post)


@mutation(
    FailFastRedis.script,
    "Redis fills up with outcomes until it evicts what matters.",
    _GUARD + "test_nothing_is_kept_for_ever",
)
async def kept_for_ever(script: Method, redis: FailFastRedis, source: str, keys: list[str], args: list[Any]) -> Any:
    result = await script(redis, source, keys, args)
    await redis.run(lambda connection: connection.persist(keys[0]))
    return result


@mutation(
    FailFastRedis.script,
    "Without Redis no request is worked on.",
    _STEPS + "test_without_redis_the_outcome_is_sent_all_the_same",
)
async def redis_errors_not_translated(script: Method, redis: FailFastRedis, *what: Any) -> Any:
    try:
        return await script(redis, *what)
    except RedisUnavailable as unavailable:
        raise ConnectionError from unavailable


# -- until it is cancelled


@mutation(
    Ledger.find,
    "An ask that was cancelled before it came is worked on.",
    _CANCELLED + "test_cancelled_work_is_not_done_and_its_caller_is_told_once",
)
async def tombstone_unseen(find: Method, ledger: Ledger, key: str) -> Any:
    entry: Entry | None = await find(ledger, key)
    return entry and replace(entry, cancelled=False)


@mutation(
    Ledger.is_open,
    "The model is called for a request that was cancelled.",
    _GENERATOR + "test_a_cancelled_request_is_not_paid_for",
)
async def cancellation_unseen(is_open: Method, ledger: Ledger, request: Any) -> bool:
    return True


@mutation(
    Ledger.decide,
    "An answer that comes after the cancellation is the outcome all the same.",
    f"{_GATEWAY}test_cancellation.py::test_an_answer_that_comes_later_is_not_the_outcome",
)
async def cancelled_and_answered(decide: Method, ledger: Ledger, request: Any, answer: Any, **delivered: bool) -> Any:
    if answer.outcome == "cancelled":
        return replace(await ledger.accept(request), answer=answer)
    return await decide(ledger, request, answer, **delivered)


# -- on time


@mutation(
    Intake.take,
    "A gateway that dies in between leaves a request without a sentinel.",
    _INTAKE + "test_the_sentinel_is_sent_before_the_work_it_guards",
)
async def sentinel_after_the_work(take: Method, intake: Intake, *asked: Any) -> Any:
    taken = await take(intake, *asked)
    return replace(taken, envelopes=[*reversed(taken.envelopes)]) if isinstance(taken, Enqueued) else taken


@mutation(
    Intake.take,
    "When a stage is stopped, the caller is not told that its time is over.",
    _INTAKE + "test_the_sentinel_is_sent_before_the_work_it_guards",
)
async def no_sentinel(take: Method, intake: Intake, *asked: Any) -> Any:
    taken = await take(intake, *asked)
    return replace(taken, envelopes=taken.envelopes[1:]) if isinstance(taken, Enqueued) else taken


@mutation(
    at_deadline,
    "A request that was admitted anew with a later deadline is not told that it has expired.",
    "tests/contracts/test_wire_ids.py::test_a_deadline_that_was_moved_has_a_sentinel_of_its_own",
)
def one_sentinel_for_all_deadlines(at_deadline: Method, request: Any) -> Any:
    sentinel: Envelope = at_deadline(request)
    return replace(sentinel, message_id=f"{request.request_id}/deadline")


@mutation(
    AskConsumer.arrival,
    "An ask that waited in the queue has its whole time again.",
    _PROMISES + "test_a_retry_of_an_ask_has_no_more_time_than_the_ask_had",
)
def retries_start_the_clock_anew(arrival: Method, consumer: AskConsumer, message: Any) -> Any:
    known = {name: value for name, value in message.properties.items() if name != ENQUEUED_AT}
    return arrival(consumer, replace(message, properties=known))


@mutation(
    AskConsumer.identify,
    "A retry of an ask is scheduled for after the end of its time to live.",
    _PROMISES + "test_the_time_to_live_of_an_ask_limits_its_retries",
)
def asks_tried_for_ever(identify: Method, consumer: AskConsumer, message: Any) -> Any:
    return replace(identify(consumer, message), deadline=None)


@mutation(
    DeadLetterConsumer.handle,
    "The caller of a request that was dead-lettered never hears of it.",
    _INTAKE + "test_the_sender_of_a_dead_ask_is_told_why",
)
async def dead_letter_not_told(handle: Method, consumer: DeadLetterConsumer, *dead: Any) -> list[Any]:
    return []


@mutation(
    ExpiredDeadLetterScan.once,
    "The caller of a message that expired while the gateway was away never hears of it.",
    f"{_GATEWAY}test_expired_dead_letters.py::test_the_caller_of_a_message_that_expired_in_dead_is_told",
)
async def expired_in_the_archive(once: Method, scan: ExpiredDeadLetterScan) -> int:
    return 0


@mutation(
    Generator.__init__,
    "A model is paid for an answer that comes too late.",
    _GENERATOR + "test_no_model_is_called_after_the_deadline",
)
def generator_clock_is_slow(init: Method, generator: Generator, *, clock: Method, **ports: Any) -> None:
    init(generator, clock=lambda: clock() - timedelta(hours=1), **ports)


# -- paid once, within the budget


@mutation(
    Generator.__init__,
    "A generator that dies before it could send buys the answer again.",
    _GENERATOR + "test_the_result_is_kept_before_it_is_sent",
)
def result_not_kept(init: Method, generator: Generator, *, ledger: Ledger, **ports: Any) -> None:
    init(generator, ledger=Port(ledger, decide=nothing), **ports)


@mutation(
    first_completed,
    "A model goes on writing an answer that was cancelled.",
    "tests/unit/services/generator/test_first_completed.py::test_cancelled_work_is_stopped_at_once",
)
async def cancelled_but_not_stopped(first_completed: Method, over: Any, work: Any) -> Any:
    over.close()
    return await work


@mutation(
    TenantBudget.reserve,
    "Requests that come together overspend together.",
    _REDIS + "test_concurrent_requests_never_overspend",
)
async def budget_always_says_yes(reserve: Method, budget: TenantBudget, *wanted: Any) -> None:
    return None


@mutation(
    TenantBudget.correct,
    "Each request that is dead-lettered takes its tokens along.",
    _INTAKE + "test_the_caller_of_dead_work_is_told_and_gets_its_tokens_back",
)
async def budget_not_given_back(correct: Method, budget: TenantBudget, *spent: Any) -> None:
    """It stays reserved."""


@mutation(
    TenantBudget.correct,
    "A tenant that is told twice of one request may spend twice.",
    "tests/conformance/test_budget_given_back.py::test_a_reservation_that_is_corrected_repeatedly_is_returned_once",
)
async def budget_given_back_twice(correct: Method, budget: TenantBudget, tenant: str, *rest: Any) -> None:
    await correct(budget, tenant, *rest)
    await budget.charge(tenant, -1_000)


@mutation(
    HttpEndpoint.__init__,
    "HTTP says 202 for a question that the broker did not take.",
    _PROMISES + "test_an_ask_that_was_not_enqueued_is_not_accepted_and_costs_nothing",
)
def accepted_but_not_enqueued(init: Method, endpoint: HttpEndpoint, *, send: Method, **ports: Any) -> None:
    async def quietly(envelope: Any) -> Any:
        try:
            return await send(envelope)
        except BusUnavailable:
            return None

    init(endpoint, send=quietly, **ports)


@mutation(
    Intake.take_back,
    "A broker that cannot be reached for a minute uses up the tenants' tokens.",
    _PROMISES + "test_an_ask_that_was_not_enqueued_is_not_accepted_and_costs_nothing",
)
async def refused_but_reserved(take_back: Method, intake: Intake, *taken: Any) -> None:
    """It stays admitted."""


# -- to its caller


@mutation(
    AskConsumer.arrival,
    "A caller can ask in the name of any tenant.",
    _PROMISES + "test_a_body_cannot_say_whose_request_it_is",
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
    "Any caller of a tenant reads, and cancels, what another one asked.",
    f"{_GATEWAY}test_cancellation.py::test_a_request_of_another_caller_is_not_found",
)
async def outcomes_for_the_whole_tenant(find: Method, ledger: Ledger, key: str) -> Any:
    entry: Entry | None = await find(ledger, key)
    return entry and replace(entry, caller=Anybody())


@mutation(
    TenantScope.acl_class,
    "A cached answer is served to people who may not read what it is made of.",
    _INTAKE + "test_a_known_answer_comes_from_the_cache_and_costs_nothing",
)
def cache_ignores_the_acl_class(acl_class: Method, scope: TenantScope) -> str:
    return ""


@mutation(
    AnswerCache.invalidate,
    "An answer made of a document that has changed is served on.",
    _REDIS + "test_an_answer_is_found_until_a_document_it_used_changes",
)
async def cache_not_invalidated(invalidate: Method, cache: AnswerCache, *document: Any) -> int:
    return 0


# -- the adapter


@mutation(
    ServiceBus.send,
    "The adapter says that a message was taken before the broker has said so.",
    _BUS + "test_what_is_too_large_is_the_senders_error_and_spares_the_rest",
)
async def adapter_does_not_wait(send: Method, bus: ServiceBus, message: Any) -> None:
    async def quietly() -> None:
        try:
            await send(bus, message)
        except Exception:  # noqa: BLE001 - the failure is not reported: that is the mutation
            return

    bus.__dict__.setdefault("_unheard", set()).add(asyncio.create_task(quietly()))
