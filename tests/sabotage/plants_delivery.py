"""Faults in the life of a delivery: order, retries, locks, back-pressure, leaving, dead letters, the bus."""

from typing import Final

from tests.sabotage.plant import Plant

_WORKER = "shared/worker/worker.py"
_LEASE = "shared/worker/lease.py"
_POLICY = "shared/worker/policy.py"
_POST = "shared/worker/post.py"
_BREAKER = "shared/worker/breaker.py"
_PUMP = "shared/bus/servicebus/pump.py"
_SENDER = "shared/bus/servicebus/sender.py"

_STEPS = "tests/unit/shared/worker/test_worker_steps.py::"
_ENDS = "tests/unit/shared/worker/test_worker_ends.py::"
_GUARANTEES = "tests/unit/shared/worker/test_worker_guarantees.py::"
_DECISIONS = "tests/unit/shared/worker/test_policy.py::"
_GATE = "tests/unit/shared/worker/test_gate.py::"
_BUS = "tests/conformance/test_bus_port.py::"
_ADAPTER = "tests/conformance/test_service_bus_adapter.py::"

DELIVERY: Final = (
    Plant(
        "complete-before-send",
        "A worker that dies in between, or finds the broker away, loses the request.",
        _WORKER,
        "            await self._send_all(envelopes, lease)\n",
        '            await self._done(delivery, "completed")\n'
        "            await self._send_all(envelopes, lease)\n"
        '            return "completed"\n',
        (_STEPS + "test_nothing_is_completed_that_was_not_sent",),
    ),
    Plant(
        "send-and-forget",
        "The delivery is completed before the broker has taken what came of it.",
        _WORKER,
        "await self._bus.send(outgoing(envelope, self._clock()))",
        "asyncio.ensure_future(self._bus.send(outgoing(envelope, self._clock())))",
        (_STEPS + "test_nothing_is_completed_that_was_not_sent",),
    ),
    Plant(
        "retry-under-the-same-id",
        "The duplicate-detecting queue swallows the retry, and the request is lost.",
        _POST,
        "retry_id(identity.base_id, attempt))",
        "identity.base_id)",
        (_STEPS + "test_work_for_later_becomes_a_scheduled_copy_under_a_new_id",),
    ),
    Plant(
        "abandon-instead-of-a-copy",
        "Work for later comes back at once and uses up its delivery count.",
        _WORKER,
        "await self.bus.send(retry_copy(message, identity, at))",
        'return await _settled(delivery.abandon(), "retried")',
        (_STEPS + "test_work_for_later_becomes_a_scheduled_copy_under_a_new_id",),
    ),
    Plant(
        "retry-after-ignored",
        "A model that asked for seven seconds is asked again at once.",
        _POLICY,
        "= now + asked, ",
        "= now, ",
        (_DECISIONS + "test_what_the_other_side_asked_for_is_the_least_wait",),
    ),
    Plant(
        "no-jitter",
        "All who failed together come back together.",
        _POLICY,
        "return ceiling * chance",
        "return ceiling",
        (_STEPS + "test_work_for_later_becomes_a_scheduled_copy_under_a_new_id",),
    ),
    Plant(
        "retry-beyond-the-deadline",
        "A copy is scheduled for when nobody waits any more.",
        _POLICY,
        "if left < policy.base:",
        "if False:",
        (_DECISIONS + "test_a_retry_that_would_miss_the_deadline_is_not_scheduled",),
    ),
    Plant(
        "attempts-not-counted",
        "Each retry believes that it is the first.",
        _POST,
        "ATTEMPT: attempt}",
        "ATTEMPT: 1}",
        (_STEPS + "test_a_redelivered_message_stays_hidden_until_its_time",),
    ),
    Plant(
        "retry-forgets-whose-it-is",
        "A retry of an ask is taken for another request, and answered once more.",
        _POST,
        "marks[ORIGIN] = identity.origin",
        "marks.pop(ORIGIN, None)",
        (_GUARANTEES + "test_a_copy_is_the_same_request_with_the_same_deadline_and_the_same_beginning",),
    ),
    Plant(
        "retry-forgets-its-deadline",
        "Each retry has as long as the whole request had.",
        _POST,
        "marks[ANSWER_BY] = identity.deadline.isoformat()",
        "marks.pop(ANSWER_BY, None)",
        (_GUARANTEES + "test_a_copy_is_the_same_request_with_the_same_deadline_and_the_same_beginning",),
    ),
    Plant(
        "retry-drops-properties",
        "What the sender wrote on its message is gone after a retry.",
        _POST,
        "properties={**message.properties, **_marks",
        "properties={**_marks",
        (_GUARANTEES + "test_a_copy_is_the_same_request_with_the_same_deadline_and_the_same_beginning",),
    ),
    Plant(
        "a-second-lost-at-each-hop",
        "Messages die before their deadline, and callers are told `expired` too early.",
        _POST,
        "math.ceil(",
        "math.floor(",
        (_STEPS + "test_a_message_never_dies_before_its_deadline",),
    ),
    Plant(
        "late-work-done",
        "Work is begun for a request whose deadline has passed.",
        _WORKER,
        "if left <= 0:",
        "if False:",
        (_STEPS + "test_late_work_is_not_done",),
    ),
    Plant(
        "work-beyond-the-deadline",
        "A handler works on for somebody who has been told `expired`.",
        _WORKER,
        "async with asyncio.timeout(left) as limit:",
        "async with asyncio.timeout(None) as limit:",
        (_ENDS + "test_work_is_stopped_at_its_deadline_and_says_so",),
    ),
    Plant(
        "lock-loss-ignored",
        "A handler works on after its delivery went to somebody else.",
        _LEASE,
        "raise keeping.exception() or ",
        "return await working\n        raise ",
        (_GUARANTEES + "test_within_a_second_of_hearing_that_the_lock_is_lost_the_work_has_stopped",),
    ),
    Plant(
        "effects-after-the-lock",
        "A process that stood still sends what another worker has sent meanwhile.",
        _LEASE,
        "if asyncio.get_running_loop().time() >= self._ends:",
        "if False:",
        (_STEPS + "test_after_a_pause_longer_than_its_lock_a_process_sends_nothing",),
    ),
    Plant(
        "retry-after-the-lock",
        "A process that stood still schedules a retry of what another worker has done meanwhile.",
        _WORKER,
        "            lease.check()\n            return await self._after(failure, delivery)",
        "            return await self._after(failure, delivery)",
        (_ENDS + "test_after_a_pause_longer_than_its_lock_no_retry_is_scheduled_either",),
    ),
    Plant(
        "no-lock-renewal",
        "Work that takes longer than its lock is done twice.",
        _LEASE,
        "await asyncio.sleep(max(0.0, self._ends - loop.time()) * RENEW_AFTER)",
        "await asyncio.sleep(1e9)",
        (_GUARANTEES + "test_work_of_many_times_the_lock_is_still_ours_at_the_end",),
    ),
    Plant(
        "one-failed-renewal-loses-the-lock",
        "A hiccup of the broker costs every long call its lock.",
        _LEASE,
        "if loop.time() + RETRY_EVERY >= ends:",
        "if True:",
        (_GUARANTEES + "test_a_renewal_that_fails_is_tried_again",),
    ),
    Plant(
        "unbounded-in-flight",
        "A worker takes all there is, and holds locks on what it does not get to.",
        _WORKER,
        "await slots.acquire()",
        "await asyncio.sleep(0)",
        (_STEPS + "test_in_flight_work_is_bounded",),
    ),
    Plant(
        "a-receiver-ends-the-worker",
        "An error of the SDK that nobody has thought of ends the process.",
        _WORKER,
        "except Exception as away:  # noqa: BLE001 - a receiver",
        "except BusUnavailable as away:  # noqa: BLE001 - a receiver",
        (_ENDS + "test_a_receiver_that_fails_in_a_new_way_does_not_end_the_worker",),
    ),
    Plant(
        "breaker-never-opens",
        "Work is received, and fails, for as long as the model is down.",
        _BREAKER,
        "if failures < rules.threshold:",
        "if True:",
        (_GATE + "test_it_opens_after_so_many_failures_in_a_row",),
    ),
    Plant(
        "every-replica-probes",
        "A scaler that sees the backlog multiplies the calls to a dead model.",
        _BREAKER,
        "(state.prober != who and now < state.until)",
        "(not state.is_probing and now < state.until)",
        (_GATE + "test_replicas_open_it_together_and_one_of_them_probes",),
    ),
    Plant(
        "dead-prober-keeps-the-probe",
        "A replica that was killed while it probed leaves the queue closed for good.",
        _BREAKER,
        "(state.prober != who and now < state.until)",
        "(state.prober != who and (state.is_probing or now < state.until))",
        (_GATE + "test_a_prober_that_died_is_followed_by_another",),
    ),
    Plant(
        "probe-not-kept",
        "While one replica probes for long, another one begins to probe as well.",
        _WORKER,
        "await self.gate.keep()",
        "pass",
        (_ENDS + "test_a_probe_that_takes_long_is_kept_from_being_taken_over",),
    ),
    Plant(
        "breaker-stays-open",
        "The model is back, and nobody asks it.",
        _BREAKER,
        "def worked(_state: State) -> State:",
        "def worked(_state: State) -> State:\n    return _state\n",
        (_GATE + "test_a_probe_that_works_lets_everybody_receive",),
    ),
    Plant(
        "success-not-counted",
        "Five failures in a week open the breaker, although thousands of calls between them went well.",
        _WORKER,
        "await self.gate.worked()",
        "pass",
        (_ENDS + "test_a_breaker_is_told_of_work_that_went_well_and_not_of_what_was_given_up",),
    ),
    Plant(
        "given-up-is-a-success",
        "Each cancelled request closes the breaker of a dead model.",
        _WORKER,
        " and not _was_cancelled(envelopes):",
        ":",
        (_ENDS + "test_a_breaker_is_told_of_work_that_went_well_and_not_of_what_was_given_up",),
    ),
    Plant(
        "receive-and-bounce",
        "While the breaker is open messages are received all the same.",
        _WORKER,
        "await self._next(inbox, stopping) if allowed is not Pass.WAIT else None",
        "await self._next(inbox, stopping)",
        (_GUARANTEES + "test_while_what_the_work_needs_is_down_nobody_looks_into_the_queue",),
    ),
    Plant(
        "sigterm-without-grace",
        "A rolling deployment hands back what would have been done in a second.",
        _WORKER,
        "timeout=grace.total_seconds()",
        "timeout=0",
        (_ENDS + "test_what_fits_the_grace_period_is_finished_and_the_rest_is_handed_back",),
    ),
    Plant(
        "sigterm-drops-work",
        "What does not fit the grace period waits for its lock to end, and counts as failed.",
        _WORKER,
        "await self._hand_back(delivery)",
        "delivery.forget()",
        (_STEPS + "test_what_does_not_fit_the_grace_period_is_handed_back_with_the_same_attempt",),
    ),
    Plant(
        "sigterm-costs-an-attempt",
        "A rolling deployment uses up the retries of whatever is under way.",
        _POST,
        "_copy(message, identity, now, message.attempt, back)",
        "_copy(message, identity, now, message.attempt + 1, back)",
        (_STEPS + "test_what_does_not_fit_the_grace_period_is_handed_back_with_the_same_attempt",),
    ),
    Plant(
        "sigterm-raises-the-dead",
        "A dead message that was being told comes back as one to be worked on.",
        _WORKER,
        "        if self.job.archive is not None:\n            # A copy",
        "        if False:\n            # A copy",
        (_ENDS + "test_a_dead_message_is_not_handed_back_as_a_living_one",),
    ),
    Plant(
        "too-large-is-a-crash",
        "An answer that the broker refuses for its size is told as a bug of ours.",
        _WORKER,
        "raise Unprocessable(Reason.PAYLOAD_TOO_LARGE, str(large)) from large",
        "raise ValueError(str(large)) from large",
        (_ENDS + "test_an_answer_that_is_too_large_is_told_as_that",),
    ),
    Plant(
        "a-full-queue-is-a-crash",
        "A caller who does not fetch its answers has its requests dead-lettered.",
        _WORKER,
        "raise TryLater(str(full), after=FULL) from full",
        "raise ValueError(str(full)) from full",
        (_ENDS + "test_an_answer_for_a_full_queue_comes_later",),
    ),
    Plant(
        "poison-retried",
        "A message that can never be read is worked on again and again.",
        _POLICY,
        "return DeadLetter(reason, detail)",
        "return Retry(now, detail) if attempt < 3 else DeadLetter(reason, detail)",
        (_STEPS + "test_poison_is_dead_lettered_and_the_worker_goes_on",),
    ),
    Plant(
        "suspects-in-company",
        "A message that kills its workers takes the delivery counts of all beside it along.",
        _WORKER,
        "return delivery.message.delivery_count >= SUSPECT",
        "return False",
        (_STEPS + "test_what_its_workers_may_have_died_of_is_worked_on_alone",),
    ),
    Plant(
        "dead-letter-not-archived",
        "What died is gone once its caller was told: nobody can look at it or replay it.",
        _WORKER,
        "if self.job.archive is None:\n            reach",
        "if True:\n            reach",
        (_GUARANTEES + "test_a_dead_message_is_archived_with_what_it_died_of_and_not_completed",),
    ),
    Plant(
        "send-not-awaited",
        "The adapter says that a message was taken before the broker has said so.",
        _SENDER,
        "        waiting = _Waiting(to_sdk(message), asyncio.get_running_loop().create_future())\n"
        "        self._waiting.put_nowait(waiting)\n"
        "        await waiting.sent\n",
        "        waiting = _Waiting(to_sdk(message), asyncio.get_running_loop().create_future())\n"
        "        self._waiting.put_nowait(waiting)\n",
        (_BUS + "test_what_is_too_large_is_the_senders_error_and_spares_the_rest[service bus]",),
    ),
    Plant(
        "sender-without-an-owner",
        "Many tasks use one sender of the SDK at once, which duplicates messages and hangs.",
        _SENDER,
        "        waiting = _Waiting(to_sdk(message), asyncio.get_running_loop().create_future())\n"
        "        self._waiting.put_nowait(waiting)\n"
        "        await waiting.sent\n",
        "        await (await self._open()).send_messages(to_sdk(message))\n",
        (_ADAPTER + "test_a_send_that_was_cancelled_before_its_turn_is_not_sent",),
    ),
    Plant(
        "credit-without-end",
        "Messages are locked here that this worker cannot work on, while others have nothing to do.",
        _PUMP,
        "wanted = max(1, self._room())",
        "wanted = 100",
        (_ADAPTER + "test_no_more_is_locked_than_can_be_worked_on",),
    ),
    Plant(
        "prefetched-counts-as-failed",
        "Each rolling deployment raises the delivery count of what nobody has looked at.",
        _PUMP,
        'frame[1], frame[2], "released")',
        'frame[1], frame[2], "modified", delivery_failed=True)',
        (_ADAPTER + "test_what_is_not_asked_for_any_more_goes_back_as_it_was",),
    ),
)
