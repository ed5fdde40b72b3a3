"""Logs contain allowed fields only; traces cross queues in both formats."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from shared.telemetry import traces
from shared.telemetry.logs import only_allowed

PARENT = f"00-{'ab' * 16}-{'cd' * 8}-01"


def test_a_field_that_is_not_allowed_is_logged_as_its_length() -> None:
    said = only_allowed(None, "", {"question": "What is my salary?", "queue": "ask", "event": "x", "level": "info"})
    assert said == {"level": "info", "event": "x", "question": "<18 characters>", "queue": "ask"}
    assert list(said)[:2] == ["level", "event"]


@pytest.mark.parametrize("name", ["traceparent", "Diagnostic-Id"])
def test_a_sender_of_either_dialect_is_the_parent(name: str) -> None:
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    sent: dict[str, str] = {}
    with traces.consuming("process ask", {name: PARENT}, {}):
        assert traces.trace_id() == "ab" * 16
        traces.inject(sent)
    assert sent["traceparent"] == sent["Diagnostic-Id"]
    assert sent["traceparent"].split("-")[1] == "ab" * 16


@pytest.mark.parametrize("broken", ["", "00-xyz-1-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_an_invalid_parent_starts_a_new_trace(broken: str) -> None:
    with traces.consuming("process ask", {"traceparent": broken}, {}):
        assert traces.trace_id() != "0" * 32
