"""How many random examples a property is tried with: all of them in `make test-all`, a tenth in `make test`."""

import os

from hypothesis import HealthCheck, settings

_EVERYTHING = os.environ.get("SERVICEBUS_LOCAL_TEST") == "all"


def examples(count: int, *, steps: int = 50) -> settings:
    """Settings for `count` examples, of `steps` steps each where a state machine is run.

    How long an example takes says how busy the machine is and nothing about the code, so there is no deadline.
    """
    return settings(
        max_examples=count if _EVERYTHING else max(5, count // 10),
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
