"""Mutations of effects: what the code under test does to a peer is lost, undone, late or doubled, or misunderstood.

They stand for every way to write code that leaves out an effect, does not wait for it, or does not believe its answer.
Each is one `Fault` at a port that the tests hand in, behind the wrappers of the crash points; no code of ours is
replaced.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from shared.bus.port import BusUnavailable, LockLost, MessageTooLarge, QueueFull
from shared.redis import RedisUnavailable
from tests.mutation.faults import (
    Fault,
    SlowClock,
    everlasting,
    forgotten,
    ignored,
    late,
    lost,
    misnamed,
    unconfirmed,
    undone,
)
from tests.mutation.promises import (
    ADAPTER,
    BREAKER,
    BUDGET,
    BUS,
    CANCELLATION,
    CANCELLED,
    ENDS,
    EXPIRED,
    GATEWAY,
    GENERATOR,
    GUARANTEES,
    GUARD,
    INTAKE,
    REDIS,
    STEPS,
    Promise,
    delivery,
    request,
)
from tests.support.ports import Wiring
from tests.support.virtual_time import virtual_clock


@dataclass(frozen=True, slots=True)
class Effect:
    """A fault at some effects, and what it breaks."""

    name: str
    fault: Fault
    promises: tuple[Promise, ...]

    def apply(self) -> None:
        """Have it for the rest of this process."""
        Wiring.around = self.fault.wire


def _effect(name: str, fault: Fault, *promises: Promise) -> Effect:
    return Effect(name, fault, promises)


_ALL = (
    # -- the bus
    _effect(
        "send-lost",
        Fault("bus send *", lost()),
        delivery(
            "The reply counts as sent, and the broker does not have it.",
            STEPS + "test_the_result_is_sent_and_then_the_delivery_completed",
        ),
        delivery(
            "Work for later is completed and does not come back.",
            STEPS + "test_work_for_later_becomes_a_scheduled_copy_under_a_new_id",
        ),
        delivery(
            "What does not fit the grace period waits for its lock to end, and counts as failed.",
            STEPS + "test_what_does_not_fit_the_grace_period_is_handed_back_with_the_same_attempt",
        ),
        request(
            "The caller of a message that expired while the gateway was down never hears of it.",
            EXPIRED + "test_the_caller_of_a_message_that_expired_in_dead_is_told",
        ),
    ),
    _effect(
        "send-unconfirmed",
        Fault("bus send *", unconfirmed),
        delivery(
            "The delivery is completed before the broker has taken what came of it.",
            STEPS + "test_nothing_is_completed_that_was_not_sent",
        ),
        delivery(
            "The adapter says that a message was taken before the broker has said so.",
            BUS + "test_what_is_too_large_is_the_senders_error_and_spares_the_rest",
        ),
        request(
            "An outcome that the broker did not take counts as sent, and its caller waits forever.",
            GUARANTEES + "test_an_outcome_that_was_not_sent_is_sent_by_the_next_worker",
        ),
    ),
    _effect(
        "send-after-completion",
        Fault("bus send *", late(after="bus complete *")),
        delivery(
            "A worker that dies in between, or cannot reach the broker, loses the request.",
            STEPS + "test_nothing_is_completed_that_was_not_sent",
        ),
    ),
    _effect(
        "refusal-misnamed",
        Fault("bus send *", misnamed((MessageTooLarge, QueueFull), ValueError("refused"))),
        delivery(
            "An answer that the broker refuses for its size is told as a bug of ours.",
            ENDS + "test_an_outcome_that_the_broker_refuses_for_its_size_is_sent_and_kept_as_too_large",
        ),
        delivery(
            "A caller who does not fetch its answers has its requests dead-lettered.",
            ENDS + "test_an_answer_for_a_full_queue_comes_later",
        ),
    ),
    _effect(
        "completion-lost",
        Fault("bus complete *", lost()),
        delivery(
            "The delivery counts as completed, and the broker delivers it again.",
            STEPS + "test_the_result_is_sent_and_then_the_delivery_completed",
        ),
    ),
    _effect(
        "dead-letter-lost",
        Fault("bus dead-letter *", lost()),
        delivery(
            "Poison is thrown away, and its caller never hears of it.",
            STEPS + "test_poison_is_dead_lettered_and_the_worker_goes_on",
        ),
        delivery(
            "A dead-lettered message is gone once its caller was told: it cannot be looked at or replayed.",
            GUARANTEES + "test_a_dead_message_is_archived_with_what_it_died_of_and_not_completed",
        ),
    ),
    _effect(
        "renewal-lost",
        Fault("bus renew *", lost(virtual_clock)),
        delivery(
            "Work that takes longer than its lock is done twice.",
            GUARANTEES + "test_work_of_many_times_the_lock_is_still_ours_at_the_end",
        ),
    ),
    _effect(
        "lock-loss-ignored",
        Fault("bus renew *", ignored(LockLost, virtual_clock)),
        delivery(
            "A handler works on after its delivery went to another worker.",
            GUARANTEES + "test_within_a_second_of_hearing_that_the_lock_is_lost_the_work_has_stopped",
        ),
    ),
    _effect(
        "renewal-failure-misnamed",
        Fault("bus renew *", misnamed(BusUnavailable, LockLost("at the first failure"))),
        delivery(
            "A hiccup of the broker costs every long call its lock.",
            GUARANTEES + "test_a_renewal_that_fails_is_tried_again",
        ),
    ),
    _effect(
        "receive-failure-ignored",
        Fault("bus receive *", ignored(ArithmeticError)),
        delivery(
            "`/readyz` says that all is well on a worker that receives nothing.",
            ENDS + "test_a_worker_that_was_cut_off_is_not_ready",
        ),
    ),
    _effect(
        "receive-failure-misnamed",
        Fault("bus receive *", misnamed(ArithmeticError, asyncio.CancelledError())),
        delivery(
            "An error of the SDK that the adapter does not know ends the process.",
            ENDS + "test_a_receiver_that_fails_in_a_new_way_does_not_end_the_worker",
        ),
    ),
    _effect(
        "inbox-stays-open",
        Fault("bus close *", lost()),
        delivery(
            "While the breaker is open the link is open too: a message that arrives on it waits until its lock has "
            "ended.",
            BREAKER + "test_while_it_is_open_nothing_is_received_and_then_one",
        ),
        delivery(
            "Each rolling deployment raises the delivery count of messages that no handler has seen.",
            ADAPTER + "test_what_was_prefetched_goes_back_as_it_was_and_the_rest_can_still_be_settled",
        ),
    ),
    # -- Redis
    _effect(
        "outage-misnamed",
        Fault("redis *", misnamed(RedisUnavailable, ConnectionError("no Redis"))),
        request(
            "Without Redis no request is worked on.",
            STEPS + "test_without_redis_the_outcome_is_sent_all_the_same",
        ),
    ),
    _effect(
        "ledger-knows-nothing",
        Fault("redis hmget ragbus:request:", forgotten()),
        request(
            "A redelivered message is worked on, and paid for, again.",
            STEPS + "test_a_redelivered_message_sends_no_second_outcome",
        ),
        request(
            "An ask that was cancelled before it came is worked on.",
            CANCELLED + "test_cancelled_work_is_not_done_and_its_caller_is_told_once",
        ),
        request(
            "The model is called for a request that was taken back.",
            GENERATOR + "test_a_cancelled_request_is_not_paid_for",
        ),
    ),
    _effect(
        "every-decision-is-the-first",
        Fault("redis ledger.DECIDE", forgotten("answer", "delivered", "cancelled")),
        request(
            "Two workers send two different outcomes.",
            REDIS + "test_of_many_outcomes_the_first_is_the_outcome",
        ),
        request(
            "A worker that lost the race sends its own outcome, not the one that was decided.",
            STEPS + "test_the_first_outcome_that_is_decided_wins",
        ),
        request(
            "An outcome that arrives late replaces the one that was decided.",
            GUARD + "test_an_outcome_that_is_stored_late_does_not_replace_the_decided_one",
        ),
        request(
            "A sentinel tells `expired` to a caller who has an answer.",
            GUARANTEES + "test_a_sentinel_does_not_tell_expired_to_a_caller_who_has_an_answer",
        ),
        request(
            "An answer that comes after the cancellation is the outcome all the same.",
            CANCELLATION + "test_an_answer_that_comes_later_is_not_the_outcome",
        ),
    ),
    _effect(
        "decision-undone",
        Fault("redis ledger.DECIDE", undone()),
        request(
            "A generator that dies before it could send buys the answer again.",
            GENERATOR + "test_the_result_is_kept_before_it_is_sent",
        ),
    ),
    _effect(
        "delivery-not-noted",
        Fault("redis ledger.DELIVERED", lost()),
        request(
            "The worker that comes second sends the outcome once more.",
            GUARD + "test_what_another_worker_has_sent_meanwhile_is_not_sent_again",
        ),
    ),
    _effect(
        "kept-for-ever",
        Fault("redis ledger.*", everlasting),
        request(
            "Redis fills up with outcomes until it evicts what matters.",
            GUARD + "test_every_ledger_entry_expires",
        ),
    ),
    _effect(
        "every-reservation-is-the-first",
        Fault("redis budget.RESERVE", forgotten()),
        request(
            "Requests that come together overspend together.",
            BUDGET + "test_concurrent_requests_never_overspend",
        ),
    ),
    _effect(
        "estimate-not-given-back",
        Fault("redis budget.GIVE_BACK", undone()),
        request(
            "Each request that dies takes its tokens along.",
            INTAKE + "test_the_caller_of_dead_work_is_told_and_gets_its_tokens_back",
        ),
        request(
            "A broker that cannot be reached for a minute uses up the tenants' tokens.",
            GATEWAY + "test_an_ask_that_was_not_enqueued_is_not_accepted_and_costs_nothing",
        ),
    ),
    _effect(
        "reservation-stays",
        Fault("redis budget.GIVE_BACK", undone(only="*:holds")),
        request(
            "A tenant that is told twice may spend twice.",
            BUDGET + "test_a_reservation_that_is_given_back_repeatedly_is_returned_once",
        ),
    ),
    _effect(
        "call-not-remembered",
        Fault("redis budget.SETTLE", undone(only="*:calls:*")),
        request(
            "One call is charged twice.",
            BUDGET + "test_a_call_is_charged_once_however_often_it_is_settled",
        ),
    ),
    _effect(
        "call-not-charged",
        Fault("redis budget.SETTLE", undone()),
        request(
            "A call that was made is free.",
            GENERATOR + "test_an_answer_that_is_cancelled_is_stopped_and_what_it_used_is_charged",
        ),
    ),
    _effect(
        "cache-not-invalidated",
        Fault("redis answer_cache.INVALIDATE", lost(lambda: 1)),
        request(
            "An answer made of a document that has changed is served on.",
            REDIS + "test_an_answer_is_found_until_a_document_it_used_changes",
        ),
    ),
    # -- the clock
    _effect(
        "clock-is-slow",
        SlowClock(),
        delivery(
            "Work is begun for a request whose deadline has passed.",
            STEPS + "test_late_work_is_not_done",
        ),
        delivery(
            "A handler works on for a caller who has been told `expired`.",
            ENDS + "test_work_is_stopped_at_its_deadline_and_says_so",
        ),
        delivery(
            "A process that stood still sends what another worker has sent meanwhile.",
            STEPS + "test_after_a_pause_longer_than_its_lock_a_process_sends_nothing",
        ),
        delivery(
            "A process that stood still schedules a retry of what another worker has done meanwhile.",
            ENDS + "test_after_a_pause_longer_than_its_lock_no_retry_is_scheduled_either",
        ),
        request(
            "A model is paid for an answer that comes too late.",
            GENERATOR + "test_no_model_is_called_after_the_deadline",
        ),
    ),
)
EFFECTS: Final[dict[str, Effect]] = {effect.name: effect for effect in _ALL}
