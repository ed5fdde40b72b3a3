"""The modules that only decide (facts in, decision out), and the tests that must notice when one decides otherwise.

What waits, sends or stores is left out: a mutant of it hangs as often as it fails, and its promises are broken on
purpose in `behaviours.py`. A module belongs here when its tests are fast and need no more than a Redis.
"""

from collections.abc import Mapping
from typing import Final

_WORKER: Final = (
    "tests/unit/shared/worker/test_worker_steps.py",
    "tests/unit/shared/worker/test_worker_guarantees.py",
)

MODULES: Final[Mapping[str, tuple[str, ...]]] = {
    "services/gateway/admission.py": (
        "tests/unit/services/gateway/test_admission.py",
        "tests/unit/services/gateway/test_intake.py",
    ),
    "services/generator/call_times.py": ("tests/unit/services/generator/test_generator.py",),
    "services/generator/citations.py": ("tests/unit/services/generator/test_citations.py",),
    "services/generator/planner.py": ("tests/unit/services/generator/test_planner.py",),
    "services/generator/prompt.py": ("tests/unit/services/generator/test_prompt.py",),
    "services/indexer/chunk.py": ("tests/unit/services/indexer/test_chunking.py",),
    "services/indexer/sources.py": ("tests/unit/shared/access/test_rights.py",),
    "services/retriever/deduplicate.py": ("tests/unit/services/retriever/test_deduplicate.py",),
    "shared/access/callers.py": ("tests/unit/shared/access/test_rights.py",),
    "shared/access/scope.py": ("tests/unit/shared/access/test_scope.py", "tests/unit/shared/access/test_rights.py"),
    "shared/budget/bucket.py": ("tests/unit/shared/budget/test_bucket.py",),
    "shared/circuit_breaker.py": (
        "tests/unit/shared/test_machine_circuit_breaker.py",
        "tests/unit/shared/worker/test_shared_breaker.py",
    ),
    "shared/contracts/envelope.py": ("tests/contracts/test_wire_ids.py", *_WORKER),
    "shared/contracts/fit.py": ("tests/unit/shared/contracts/test_fit.py",),
    "shared/contracts/ids.py": ("tests/contracts/test_wire_ids.py", "tests/contracts/test_wire_ask_digest.py"),
    "shared/flow/estimate.py": ("tests/unit/shared/flow/test_estimate.py",),
    "shared/flow/rules.py": ("tests/unit/shared/flow/test_overload.py",),
    "shared/text.py": ("tests/unit/shared/test_text.py",),
    "shared/worker/outbox.py": _WORKER,
    "shared/worker/retry.py": ("tests/unit/shared/worker/test_retry.py", *_WORKER),
    "shared/worker/slots.py": ("tests/unit/shared/worker/test_slots.py",),
}
