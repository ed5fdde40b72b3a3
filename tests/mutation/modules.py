"""The modules that only decide (facts in, decision out), and the tests that must notice when one decides otherwise.

What waits, sends or stores is left out: a mutant of it hangs as often as it fails, and its promises are broken on
purpose in `behaviours.py`. A module belongs here when its tests are fast and need no more than a Redis.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tests.mutation.promises import BREAKER, ENVELOPE, INTAKE, OUTBOX, RETRY, WIRE_IDS, Promise, delivery, request

# The floor of a module whose score was not measured since it has one: a guess, which its first full run replaces.
UNMEASURED = 0.70


@dataclass(frozen=True, slots=True)
class Module:
    """A module, its tests, and how much of it they hold."""

    tests: tuple[str, ...]
    """Files, or single tests of slow ones."""
    floor: float = UNMEASURED
    """The least share of its mutants that must be noticed: two or three mutants below what was measured. A score is the
    same each time, as Hypothesis draws the same examples; it moves when the module or its tests change."""
    promises: tuple[Promise, ...] = ()
    """What it promises in particular."""


MODULES: Final[Mapping[str, Module]] = {
    "services/gateway/admission.py": Module(
        (
            "tests/unit/services/gateway/test_admission.py",
            "tests/unit/services/gateway/test_intake.py",
        ),
        floor=0.91,
        promises=(
            request(
                "An answer goes to whatever queue the message names.",
                INTAKE + "test_a_dead_ask_cannot_name_a_queue_that_is_not_its_callers",
            ),
        ),
    ),
    "services/generator/call_times.py": Module(
        ("tests/unit/services/generator/test_call_times.py",),
        floor=0.96,
    ),
    "services/generator/citations.py": Module(
        ("tests/unit/services/generator/test_citations.py",),
        floor=0.92,
    ),
    "services/generator/leak.py": Module(
        ("tests/unit/services/generator/test_leak.py",),
    ),
    "services/generator/markup.py": Module(
        ("tests/unit/services/generator/test_markup.py",),
    ),
    "services/generator/numbers.py": Module(
        ("tests/unit/services/generator/test_numbers.py",),
    ),
    "services/generator/planner.py": Module(
        ("tests/unit/services/generator/test_planner.py",),
        floor=0.91,
    ),
    "services/generator/prompt.py": Module(
        ("tests/unit/services/generator/test_prompt.py",),
        floor=0.83,
    ),
    "services/generator/reasoning.py": Module(
        ("tests/unit/services/generator/test_reasoning.py",),
        floor=0.87,
    ),
    "services/generator/reply.py": Module(
        ("tests/unit/services/generator/test_usable_usage.py",),
        floor=0.72,
    ),
    "services/generator/structured.py": Module(
        ("tests/unit/services/generator/test_structured.py",),
    ),
    "services/indexer/chunk.py": Module(
        ("tests/unit/services/indexer/test_chunking.py",),
        floor=0.85,
    ),
    "services/indexer/sources.py": Module(
        ("tests/unit/shared/access/test_rights.py",),
        floor=0.82,
    ),
    "services/retriever/deduplicate.py": Module(
        ("tests/unit/services/retriever/test_deduplicate.py",),
        floor=0.78,
    ),
    "shared/access/callers.py": Module(
        ("tests/unit/shared/access/test_callers.py",),
        floor=0.94,
    ),
    "shared/access/output_schema.py": Module(
        ("tests/unit/shared/access/test_output_schema.py",),
    ),
    "shared/access/scope.py": Module(
        ("tests/unit/shared/access/test_scope.py", "tests/unit/shared/access/test_rights.py"),
        floor=0.90,
    ),
    "shared/access/limits.py": Module(
        ("tests/unit/shared/access/test_limits.py",),
        floor=0.93,
    ),
    "shared/budget/price.py": Module(
        ("tests/unit/shared/budget/test_price.py",),
    ),
    "shared/budget/rules.py": Module(
        ("tests/unit/shared/budget/test_rules.py",),
    ),
    "shared/budget/waiting.py": Module(
        ("tests/unit/shared/budget/test_waiting.py",),
    ),
    "shared/circuit_breaker.py": Module(
        (
            "tests/unit/shared/test_machine_circuit_breaker.py",
            "tests/unit/shared/worker/test_shared_breaker.py",
        ),
        floor=0.95,
        promises=(
            delivery(
                "Work is received, and fails, for as long as the model is down.",
                BREAKER + "test_it_opens_after_the_configured_failures_in_a_row",
            ),
            delivery(
                "A scaler that sees the backlog multiplies the calls to a dead model.",
                BREAKER + "test_replicas_open_it_together_and_one_of_them_probes",
            ),
            delivery(
                "A replica that was killed while it probed leaves the queue closed for good.",
                BREAKER + "test_a_prober_that_died_is_followed_by_another",
            ),
        ),
    ),
    "shared/contracts/envelope.py": Module(
        ("tests/contracts/test_wire_ids.py", "tests/unit/shared/contracts/test_envelope.py"),
        floor=0.96,
        promises=(
            delivery(
                "A request that was admitted anew with a later deadline is not told that it has expired.",
                WIRE_IDS + "test_a_deadline_that_was_moved_has_a_sentinel_of_its_own",
            ),
            request(
                "The reply queue cannot recognise a second reply.",
                ENVELOPE + "test_each_message_has_its_queue_and_an_id_that_says_what_it_is",
            ),
        ),
    ),
    "shared/contracts/fit.py": Module(
        ("tests/unit/shared/contracts/test_fit.py",),
        floor=0.81,
    ),
    "shared/contracts/ids.py": Module(
        (
            "tests/contracts/test_wire_ids.py",
            "tests/contracts/test_wire_ask_digest.py",
            INTAKE + "test_the_same_message_id_from_two_callers_is_two_requests",
        ),
        floor=0.92,
        promises=(
            request(
                "Two callers that use the same message id share one request.",
                INTAKE + "test_the_same_message_id_from_two_callers_is_two_requests",
            ),
        ),
    ),
    "shared/embeddings/reply.py": Module(
        ("tests/unit/shared/embeddings/test_embedding_reply.py",),
        floor=0.78,
    ),
    "shared/flow/estimate.py": Module(
        ("tests/unit/shared/flow/test_estimate.py",),
        floor=0.96,
    ),
    "shared/flow/rules.py": Module(
        ("tests/unit/shared/flow/test_rules.py", "tests/unit/shared/flow/test_estimate.py"),
        floor=0.94,
    ),
    "shared/llm/faults.py": Module(
        ("tests/unit/shared/llm/test_faults.py",),
    ),
    "shared/pacing/rules.py": Module(
        ("tests/unit/shared/pacing/test_rules.py",),
        floor=0.8,
    ),
    "shared/quoting.py": Module(
        (
            "tests/unit/shared/test_quoting.py",
            "tests/unit/services/generator/test_prompt.py",
        ),
    ),
    "shared/llm/dialect.py": Module(
        ("tests/unit/shared/llm/test_dialect.py",),
        floor=0.80,
    ),
    "shared/text.py": Module(
        ("tests/unit/shared/test_text.py",),
        floor=0.84,
    ),
    "shared/worker/outbox.py": Module(
        ("tests/unit/shared/worker/test_outbox.py",),
        floor=0.96,
        promises=(
            delivery(
                "The duplicate-detecting queue drops the retry, and the request is lost.",
                OUTBOX + "test_a_retry_counts_as_one_more_attempt_and_what_is_handed_back_does_not",
            ),
            delivery(
                "Work for later comes back at once and uses up its delivery count.",
                OUTBOX + "test_a_copy_is_all_that_the_message_was",
            ),
            delivery(
                "Each retry believes that it is the first.",
                OUTBOX + "test_a_retry_counts_as_one_more_attempt_and_what_is_handed_back_does_not",
            ),
            delivery(
                "A retry of an ask is taken for another request, and answered once more.",
                OUTBOX + "test_a_copy_says_when_the_first_was_enqueued_where_it_was_and_when_its_answer_is_due",
            ),
            delivery(
                "Each retry has as long as the whole request had.",
                OUTBOX + "test_a_copy_says_when_the_first_was_enqueued_where_it_was_and_when_its_answer_is_due",
            ),
            delivery(
                "What the sender wrote on its message is gone after a retry.",
                OUTBOX + "test_a_copy_is_all_that_the_message_was",
            ),
            delivery(
                "Messages die before their deadline, and callers are told `expired` too early.",
                OUTBOX + "test_a_life_is_in_whole_seconds_never_too_short_and_never_none",
            ),
            delivery(
                "A rolling deployment uses up the retries of whatever is under way.",
                OUTBOX + "test_a_retry_counts_as_one_more_attempt_and_what_is_handed_back_does_not",
            ),
        ),
    ),
    "shared/worker/retry.py": Module(
        ("tests/unit/shared/worker/test_retry.py",),
        floor=0.97,
        promises=(
            delivery(
                "A model that asked for seven seconds is asked again at once.",
                RETRY + "test_what_the_other_side_asked_for_is_the_least_wait",
            ),
            delivery(
                "All who failed together come back together.",
                RETRY + "test_those_who_failed_together_do_not_come_back_together",
            ),
            delivery(
                "A retry is scheduled for after the deadline.",
                RETRY + "test_a_retry_that_would_miss_the_deadline_is_not_scheduled",
            ),
            delivery(
                "A message that can never be read is worked on again and again.",
                RETRY + "test_unprocessable_work_is_dead_lettered_at_once_with_its_reason",
            ),
        ),
    ),
    "shared/worker/slots.py": Module(
        ("tests/unit/shared/worker/test_slots.py",),
        floor=0.87,
    ),
}
