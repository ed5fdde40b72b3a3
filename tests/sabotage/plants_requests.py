"""Faults in what a request is promised: one outcome, paid once, on time, to its caller, within its budget."""

from typing import Final

from tests.sabotage.plant import Plant

_WORKER = "shared/worker/worker.py"
_POSTER = "shared/worker/publisher.py"
_OUTCOMES = "shared/worker/outcome_guard.py"
_LEDGER = "shared/ledger/ledger.py"
_ENVELOPE = "shared/contracts/envelope.py"
_BUDGET = "shared/budget/tenant.py"
_GENERATOR = "services/generator/handler.py"
_CHAT = "services/generator/chat.py"
_INTAKE = "services/gateway/intake.py"
_HTTP = "services/gateway/http_endpoint.py"
_DOOR = "services/gateway/ask_consumer.py"
_DEAD = "services/gateway/dead_letter_consumer.py"

_STEPS = "tests/unit/shared/worker/test_worker_steps.py::"
_GUARD = "tests/unit/shared/worker/test_outcome_guard.py::"
_GUARANTEES = "tests/unit/shared/worker/test_worker_guarantees.py::"
_CANCELLED = "tests/unit/shared/worker/test_cancelled_work.py::"
_REDIS = "tests/conformance/test_redis_side.py::"
_STREAMS = "tests/conformance/test_model_streams.py::"
_ANSWERS = "tests/unit/services/generator/test_generator.py::"
_DOORS = "tests/unit/services/gateway/test_intake.py::"
_CANCELLING = "tests/unit/services/gateway/test_cancellation.py::"
_GATEWAY = "tests/unit/services/gateway/test_gateway_guarantees.py::"

REQUESTS: Final = (
    # -- one outcome
    Plant(
        "ledger-not-asked",
        "A redelivered message is worked on, and paid for, again.",
        _WORKER,
        "known = await self._recognise(request)",
        "known = None",
        (_STEPS + "test_a_redelivered_message_sends_no_second_outcome",),
    ),
    Plant(
        "last-claim-wins",
        "Two workers send two different outcomes.",
        _LEDGER,
        "redis.call('HSETNX', KEYS[1], 'answer', ARGV[7]) == 1",
        "redis.call('HSET', KEYS[1], 'answer', ARGV[7]) >= 0",
        (_REDIS + "test_of_many_outcomes_the_first_is_the_outcome",),
    ),
    Plant(
        "own-answer-instead-of-the-claimed",
        "Whoever lost the race sends what it found, not what was claimed.",
        _OUTCOMES,
        "winner = entry.answer if guarded and entry is not None and entry.answer is not None else answer",
        "winner = answer",
        (_STEPS + "test_the_first_outcome_that_is_claimed_wins",),
    ),
    Plant(
        "random-reply-id",
        "The reply queue cannot recognise a second reply.",
        _ENVELOPE,
        'message_id=stage_id(request.request_id, "reply", _reply_branch(request)),',
        'message_id=__import__("uuid").uuid4().hex,',
        (_STEPS + "test_the_result_is_sent_and_then_the_delivery_completed",),
    ),
    Plant(
        "noted-before-sent",
        "An outcome that the broker did not take counts as sent, and its caller waits for ever.",
        _OUTCOMES,
        "        try:\n            await send(replace(envelope, message=winner))\n",
        "        await self._note_sent(request)\n"
        "        try:\n            await send(replace(envelope, message=winner))\n",
        (_GUARANTEES + "test_an_outcome_that_did_not_leave_is_sent_by_whoever_comes_next",),
    ),
    Plant(
        "sent-again",
        "Whoever comes second sends the outcome once more.",
        _OUTCOMES,
        "        if entry is not None and entry.delivered:\n            await self.ended(holder, entry)\n"
        "            return None\n",
        "",
        (_GUARD + "test_what_somebody_else_has_sent_meanwhile_is_not_sent_again",),
    ),
    Plant(
        "filed-over-the-claimed",
        "An outcome that arrives late replaces the one that was claimed.",
        _LEDGER,
        "await self._redis.script(_DECIDE, [key], args)",
        "await self._redis.run(lambda redis: redis.hset(key, 'answer', answer.encode()))",
        (_GUARD + "test_an_outcome_that_is_filed_does_not_replace_the_claimed_one",),
    ),
    Plant(
        "kept-for-ever",
        "Redis fills up with outcomes until it evicts what matters.",
        _LEDGER,
        "redis.call('EXPIRE', KEYS[1], ARGV[1])",
        "redis.call('EXISTS', KEYS[1])",
        (_GUARD + "test_nothing_is_kept_for_ever",),
    ),
    Plant(
        "redis-fails-the-request",
        "Without Redis no request is worked on.",
        _OUTCOMES,
        "        except RedisUnavailable:\n            return None\n\n    async def send(",
        "        except ZeroDivisionError:\n            return None\n\n    async def send(",
        (_STEPS + "test_without_redis_the_outcome_is_sent_all_the_same",),
    ),
    Plant(
        "everybody-waits-for-redis",
        "Each request finds out anew, and pays for it, that Redis is away.",
        "shared/redis.py",
        "return not self._circuit.is_closed",
        "return False",
        ("tests/conformance/test_redis_unavailable.py::test_a_refused_redis_is_asked_once",),
    ),
    Plant(
        "window-not-checked",
        "A request may outlive the duplicate window, and be answered twice.",
        "services/gateway/main.py",
        "    check_deadlines(use_cases, settings)\n",
        "",
        (_GATEWAY + "test_a_duplicate_window_shorter_than_the_longest_life_of_a_request_is_refused",),
    ),
    # -- on time
    Plant(
        "sentinel-after-the-work",
        "A gateway that dies in between leaves a request that nobody watches.",
        _INTAKE,
        "[at_deadline(request), to_retriever(request)]",
        "[to_retriever(request), at_deadline(request)]",
        (_DOORS + "test_the_sentinel_is_sent_before_the_work_it_guards",),
    ),
    Plant(
        "no-sentinel",
        "When a stage is stopped, nobody tells the caller that its time is over.",
        _INTAKE,
        "[at_deadline(request), to_retriever(request)]",
        "[to_retriever(request)]",
        (_DOORS + "test_the_sentinel_is_sent_before_the_work_it_guards",),
    ),
    Plant(
        "retries-start-the-clock-anew",
        "An ask that waited in the queue has its whole time again.",
        _DOOR,
        "first = min(when(message.properties.get(ENQUEUED_AT)) or enqueued, enqueued)",
        "first = enqueued",
        (_GATEWAY + "test_a_retry_of_an_ask_has_no_more_time_than_the_ask_had",),
    ),
    Plant(
        "asks-tried-for-ever",
        "A retry of an ask is scheduled for after the end of its time to live.",
        _DOOR,
        "return message.enqueued_at + life",
        "return None",
        (_GATEWAY + "test_an_ask_is_not_tried_for_longer_than_it_lives",),
    ),
    Plant(
        "expired-although-answered",
        "A sentinel tells `expired` to somebody who has an answer.",
        _POSTER,
        "if not isinstance(envelope.message, RequestOutcome):",
        'if not isinstance(envelope.message, RequestOutcome) or envelope.message.outcome == "expired":',
        (_GUARANTEES + "test_a_sentinel_tells_expired_to_nobody_who_has_an_answer",),
    ),
    Plant(
        "dead-letter-not-told",
        "Whose request died never hears of it.",
        _DEAD,
        "else to_one_ask(request, answer, request.token, now)",
        "else None",
        (_DOORS + "test_the_sender_of_a_dead_ask_is_told_why",),
    ),
    Plant(
        "expired-in-the-archive",
        "Whose message expired while the gateway was away never hears of it.",
        "services/gateway/expired_dead_letters.py",
        "if message.dead_letter_reason != Reason.TTL_EXPIRED or ",
        "if True or ",
        ("tests/unit/services/gateway/test_expired_dead_letters.py::test_what_expired_there_is_told",),
    ),
    # -- paid once
    Plant(
        "result-not-kept",
        "A generator that dies before it could send buys the answer again.",
        _GENERATOR,
        "            await self._ledger.decide(request, outcome)\n",
        "            pass\n",
        (_ANSWERS + "test_the_result_is_kept_before_it_is_sent",),
    ),
    Plant(
        "paid-after-the-deadline",
        "A model is paid for an answer that comes too late.",
        _GENERATOR,
        "if within <= timedelta(0):",
        "if False:",
        (_ANSWERS + "test_no_model_is_called_after_the_deadline",),
    ),
    Plant(
        "half-an-answer",
        "A stream that broke off is taken for an answer.",
        _CHAT,
        '            raise DependencyDown("the model\'s stream ended in the middle of the answer")',
        '            buffer.finish = "stop"',
        (_STREAMS + "test_what_is_no_whole_answer_is_tried_again",),
    ),
    Plant(
        "budget-not-given-back",
        "Each request that dies takes its tokens along.",
        _DEAD,
        "            await self._correct_budget(bound.tenant, bound.spending, 0)\n",
        "            pass\n",
        (_DOORS + "test_the_caller_of_dead_work_is_told_and_gets_its_tokens_back",),
    ),
    Plant(
        "budget-given-back-twice",
        "A tenant that is told twice may spend twice.",
        _BUDGET,
        "redis.call('DEL', KEYS[2])",
        "",
        (
            "tests/conformance/test_budget_given_back.py::"
            "test_a_reservation_that_is_settled_again_and_again_is_given_back_once",
        ),
    ),
    Plant(
        "budget-not-reserved",
        "Requests that come together overspend together.",
        _BUDGET,
        "  level = level - wanted\n",
        "",
        (_REDIS + "test_concurrent_requests_never_overspend",),
    ),
    Plant(
        "ungrounded-answer",
        "What the model said is told although no document says it.",
        _GENERATOR,
        "        elif citations:\n",
        "        elif verified.text:\n",
        (_ANSWERS + "test_there_is_never_an_ungrounded_answer",),
    ),
    Plant(
        "accepted-but-not-enqueued",
        "HTTP says 202 for a question that the broker did not take.",
        _HTTP,
        "            raise unavailable() from away\n",
        "            return\n",
        (_GATEWAY + "test_what_the_broker_did_not_take_is_not_accepted_and_costs_nothing",),
    ),
    Plant(
        "refused-but-reserved",
        "A broker that is away for a minute uses up everybody's tokens.",
        _HTTP,
        "                await self._intake.take_back(taken.request, token)\n",
        "",
        (_GATEWAY + "test_what_the_broker_did_not_take_is_not_accepted_and_costs_nothing",),
    ),
    # -- to its caller
    Plant(
        "tenant-from-the-body",
        "Whoever may ask at all may ask as anybody.",
        _DOOR,
        "            caller=caller,\n",
        "            caller=caller.model_copy(update={k: v for k, v in __import__('json').loads(message.body).items()"
        " if k == 'tenant'}),\n",
        (_GATEWAY + "test_a_body_cannot_say_whose_request_it_is",),
    ),
    Plant(
        "reply-to-anybody",
        "An answer goes to whatever queue the message names.",
        "services/gateway/admission.py",
        "), own[0])",
        "), arrival.reply_to or own[0])",
        (_DOORS + "test_a_dead_ask_cannot_name_a_queue_that_is_not_its_callers",),
    ),
    Plant(
        "callers-collide",
        "Two callers that use the same message id share one request.",
        "shared/contracts/ids.py",
        'return "r" + digest(tenant, caller, message_id, ',
        'return "r" + digest(message_id, ',
        (_DOORS + "test_the_same_message_id_from_two_callers_is_two_requests",),
    ),
    Plant(
        "cache-for-everybody",
        "A cached answer is served to people who may not read what it is made of.",
        _INTAKE,
        "acl_class=TenantScope.of(request).acl_class(),",
        'acl_class="",',
        (_DOORS + "test_a_known_answer_comes_from_the_cache_and_costs_nothing",),
    ),
    Plant(
        "outcomes-for-the-whole-tenant",
        "Any caller of a tenant reads, and cancels, what another one asked.",
        _HTTP,
        "if entry is None or (entry.tenant, entry.caller) != (caller.tenant, caller.name):",
        "if entry is None or entry.tenant != caller.tenant:",
        (_CANCELLING + "test_what_is_not_this_callers_is_not_there",),
    ),
    # -- until it is cancelled
    Plant(
        "tombstone-ignored",
        "An ask that was cancelled before it came is worked on by whoever meets it.",
        _OUTCOMES,
        "if entry is None or entry.is_open or entry.answer is not None:",
        "if True:",
        (_CANCELLED + "test_cancelled_work_is_not_done_and_its_caller_is_told_once",),
    ),
    Plant(
        "cancelled-and-paid",
        "The model is called for a request that was taken back.",
        _GENERATOR,
        "if not await self._is_open(request):\n            raise Cancelled",
        "if False:\n            raise Cancelled",
        (_ANSWERS + "test_a_cancelled_request_is_not_paid_for",),
    ),
    Plant(
        "cancelled-and-answered",
        "An answer that comes after the cancellation is the outcome all the same.",
        "services/gateway/cancellation.py",
        "(await self._ledger.decide(request, cancelled(request, now))).answer or cancelled(request, now)",
        "cancelled(request, now)",
        (_CANCELLING + "test_an_answer_that_comes_later_is_not_the_outcome",),
    ),
    Plant(
        "cancelled-but-not-stopped",
        "A model goes on writing what nobody wants any more.",
        "services/generator/first_completed.py",
        "await asyncio.wait({watching, working}, return_when=asyncio.FIRST_COMPLETED)",
        "await asyncio.wait({working})",
        ("tests/unit/services/generator/test_first_completed.py::test_what_nobody_wants_any_more_is_stopped_at_once",),
    ),
)
