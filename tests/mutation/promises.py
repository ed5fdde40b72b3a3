"""What is promised, told by what goes wrong without it, and the test that turns red then.

Each mutation breaks one promise or more; together they are `docs/explanation/promises.md`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class About(Enum):
    """The headings of the page."""

    DELIVERY = "A delivery: order, retries, locks, leaving, dead letters"
    REQUEST = "A request: one outcome, on time, paid once, to its caller"


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise."""

    about: About
    without: str
    """What goes wrong without it."""
    test: str
    """The node id of a test that must fail then; a fast one."""


def delivery(without: str, test: str) -> Promise:
    """A promise about what becomes of a delivery."""
    return Promise(About.DELIVERY, without, test)


def request(without: str, test: str) -> Promise:
    """A promise about what becomes of a request."""
    return Promise(About.REQUEST, without, test)


def tests_of(promises: Sequence[Promise]) -> tuple[str, ...]:
    """The tests of `promises`, each once."""
    return tuple(dict.fromkeys(promise.test for promise in promises))


# -- where the tests are

_WORKER = "tests/unit/shared/worker/"
STEPS = f"{_WORKER}test_worker_steps.py::"
ENDS = f"{_WORKER}test_worker_ends.py::"
GUARANTEES = f"{_WORKER}test_worker_guarantees.py::"
GUARD = f"{_WORKER}test_outcome_guard.py::"
CANCELLED = f"{_WORKER}test_cancelled_work.py::"
BREAKER = f"{_WORKER}test_shared_breaker.py::"
RETRY = f"{_WORKER}test_retry.py::"
OUTBOX = f"{_WORKER}test_outbox.py::"
_GATEWAY = "tests/unit/services/gateway/"
INTAKE = f"{_GATEWAY}test_intake.py::"
GATEWAY = f"{_GATEWAY}test_gateway_guarantees.py::"
CANCELLATION = f"{_GATEWAY}test_cancellation.py::"
EXPIRED = f"{_GATEWAY}test_expired_dead_letters.py::"
_GENERATOR = "tests/unit/services/generator/"
GENERATOR = f"{_GENERATOR}test_generator.py::"
DEPLOYMENTS = f"{_GENERATOR}test_breakers.py::"
STRUCTURED = f"{_GENERATOR}test_structured.py::"
INJECTION = "tests/injection/test_injection.py::"
FIRST_COMPLETED = f"{_GENERATOR}test_first_completed.py::"
REDIS = "tests/conformance/test_redis_side.py::"
PACING = "tests/conformance/test_pacing.py::"
UNAVAILABLE = "tests/conformance/test_redis_unavailable.py::"
BUDGET = "tests/conformance/test_budget.py::"
BUS = "tests/conformance/test_bus_port.py::"
ADAPTER = "tests/conformance/test_service_bus_adapter.py::"
STREAMS = "tests/conformance/test_model_streams.py::"
ODD_REPLIES = "tests/conformance/test_odd_replies.py::"
ENVELOPE = "tests/unit/shared/contracts/test_envelope.py::"
WIRE_IDS = "tests/contracts/test_wire_ids.py::"
