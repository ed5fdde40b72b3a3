"""The metrics, as one table. `/metrics` shows them to Prometheus; OTLP gets them when it is configured."""

import os
from dataclasses import dataclass

from opentelemetry import metrics
from opentelemetry.metrics import Counter, Histogram, MeterProvider, NoOpMeterProvider
from opentelemetry.metrics import _Gauge as Gauge  # the API's own name for it, as long as it is new there

from shared.telemetry import names

# Seconds. From a cache hit to a slow model.
_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300]


@dataclass(frozen=True, slots=True)
class Metrics:
    """The instruments of a worker."""

    process_duration: Histogram
    queue_time: Histogram
    consumed: Counter
    sent: Counter
    retries: Counter
    rescheduled: Counter
    over_quota: Counter
    dead_letters: Counter
    outcomes: Counter
    outcomes_unguarded: Counter
    redis_up: Gauge
    queue_connected: Gauge
    cache_lookups: Counter
    tokens: Counter
    overruns: Counter
    model_duration: Histogram
    model_faults: Counter
    passages_embedded: Counter
    index_lag: Histogram


def make(provider: MeterProvider | None = None) -> Metrics:
    """The instruments; without a provider they record nothing."""
    meter = (provider or NoOpMeterProvider()).get_meter("ragbus")

    def seconds(name: str, what: str) -> Histogram:
        return meter.create_histogram(name, unit="s", description=what, explicit_bucket_boundaries_advisory=_BUCKETS)

    return Metrics(
        process_duration=seconds(names.PROCESS_DURATION, "from receiving a delivery to settling it"),
        queue_time=seconds(names.QUEUE_TIME, "how long a message waited on its queue"),
        consumed=meter.create_counter(names.CONSUMED, description="deliveries received"),
        sent=meter.create_counter(names.SENT, description="messages sent"),
        retries=meter.create_counter(names.RETRIES, description="scheduled copies, by queue"),
        rescheduled=meter.create_counter(
            names.RESCHEDULED, description="scheduled copies that wait for a quota and are no retry, by queue"
        ),
        over_quota=meter.create_counter(
            names.OVER_QUOTA, description="calls that had to wait for a deployment's quota, or could not, by state"
        ),
        dead_letters=meter.create_counter(names.DEAD_LETTERS, description="dead letters, by queue and reason"),
        outcomes=meter.create_counter(names.OUTCOMES, description="outcomes sent, by outcome and code"),
        outcomes_unguarded=meter.create_counter(
            names.OUTCOMES_UNGUARDED,
            description="outcomes sent that the ledger had not decided; the broker drops a second one",
        ),
        redis_up=meter.create_gauge(names.REDIS_UP, description="1 while Redis accepts our commands, else 0"),
        queue_connected=meter.create_gauge(
            names.QUEUE_CONNECTED, description="by queue: 1 while this process can receive from it, else 0"
        ),
        cache_lookups=meter.create_counter(names.CACHE_LOOKUPS, description="answer cache lookups, by state"),
        tokens=meter.create_counter(names.TOKENS, unit="{token}", description="tokens, by type and deployment"),
        overruns=meter.create_counter(
            names.OVERRUNS,
            unit="{token}",
            description="tokens that providers counted beyond what was reserved for a call, by deployment",
        ),
        model_duration=seconds(names.MODEL_DURATION, "model calls, by deployment and result"),
        model_faults=meter.create_counter(
            names.MODEL_FAULTS,
            description="failed model calls, by deployment and fault; `configuration` needs the operator",
        ),
        passages_embedded=meter.create_counter(names.PASSAGES_EMBEDDED, description="passages that were embedded"),
        index_lag=seconds(names.INDEX_LAG, "from a storage event to its commit in the index"),
    )


def configure(service: str) -> Metrics:
    """Instruments that Prometheus can read, and OTLP too when the standard variables name an endpoint."""
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    readers: list[MetricReader] = [PrometheusMetricReader()]
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    resource = Resource.create({"service.name": service, "service.namespace": "ragbus"})
    provider = SdkMeterProvider(metric_readers=readers, resource=resource)
    metrics.set_meter_provider(provider)
    return make(provider)


def exposition() -> tuple[bytes, str]:
    """The response of `/metrics`: the body and its content type."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return generate_latest(), CONTENT_TYPE_LATEST
