"""One trace per request, across all queues: W3C `traceparent`, and `Diagnostic-Id` for Azure's older SDKs.

The SDK's own tracing stays off: its plug-in is a beta with outdated names, and links where we want one tree.
"""

import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

_PROPAGATOR = TraceContextTextMapPropagator()
_TRACER = trace.get_tracer("ragbus")
DIAGNOSTIC_ID = "Diagnostic-Id"


def configure(service: str) -> None:
    """Export to OTLP when the standard `OTEL_EXPORTER_OTLP_*` variables name an endpoint; else only make ids."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

    resource = Resource.create({"service.name": service, "service.namespace": "ragbus"})
    # A span that is not exported costs three times as much as an id alone.
    provider = TracerProvider(resource=resource, sampler=None if _wanted() else ParentBased(ALWAYS_OFF))
    if _wanted():
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def flush() -> None:
    """Send what is buffered; called on the way out."""
    provider = trace.get_tracer_provider()
    shutdown = getattr(provider, "shutdown", None)
    if shutdown is not None:
        shutdown()


def consuming(
    name: str, properties: Mapping[str, object], attributes: Mapping[str, AttributeValue]
) -> AbstractContextManager[Span]:
    """A span for one delivery, child of its sender's."""
    return _span(name, SpanKind.CONSUMER, attributes, _PROPAGATOR.extract(_carrier(properties)))


def producing(name: str, attributes: Mapping[str, AttributeValue]) -> AbstractContextManager[Span]:
    """A span for one send, child of the current one."""
    return _span(name, SpanKind.PRODUCER, attributes)


def calling(name: str, attributes: Mapping[str, AttributeValue]) -> AbstractContextManager[Span]:
    """A span for a call to a dependency, child of the current one."""
    return _span(name, SpanKind.CLIENT, attributes)


def annotate(attributes: Mapping[str, AttributeValue]) -> None:
    """Add `attributes` to the current span."""
    trace.get_current_span().set_attributes(dict(attributes))


def inject(properties: MutableMapping[str, str]) -> None:
    """Write the current context into a message's application properties."""
    _PROPAGATOR.inject(properties)
    if "traceparent" in properties:
        properties[DIAGNOSTIC_ID] = properties["traceparent"]


def trace_id() -> str:
    """The current trace, as 32 hex digits; empty outside of one."""
    found = trace.get_current_span().get_span_context()
    return format(found.trace_id, "032x") if found.is_valid else ""


@contextmanager
def _span(
    name: str, kind: SpanKind, attributes: Mapping[str, AttributeValue], parent: context.Context | None = None
) -> Iterator[Span]:
    # By hand: `start_as_current_span` is three context managers inside each other, at each hop.
    span = _TRACER.start_span(name, context=parent, kind=kind, attributes=attributes)
    token = context.attach(trace.set_span_in_context(span))
    try:
        yield span
    except Exception as error:
        span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        span.set_attribute("error.type", type(error).__name__)
        raise
    finally:
        context.detach(token)
        span.end()


def _carrier(properties: Mapping[str, object]) -> dict[str, str]:
    carrier = {key: str(properties[key]) for key in ("traceparent", "tracestate") if key in properties}
    if "traceparent" not in carrier and DIAGNOSTIC_ID in properties:
        carrier["traceparent"] = str(properties[DIAGNOSTIC_ID])
    return carrier


def _wanted() -> bool:
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return any(os.environ.get(name) for name in names) and os.environ.get("OTEL_SDK_DISABLED", "") != "true"
