"""Structured logs: one JSON object a line, or coloured text on a terminal.

Events are short facts with fields. Only the fields listed here leave the process: a question, a passage or a
secret put into a log call by mistake is replaced by its length.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal

import structlog

FIRST = ("timestamp", "level", "service", "event")
ALLOWED = frozenset(
    "event level timestamp service request_id tenant caller use_case trace_id span_id queue message_id "
    "kind attempt delivery_count sequence reason detail error outcome code cache seconds wait until "
    "deployment model region tokens prompt_tokens completion_tokens cost version container path "
    "passages embedded removed change count host port url status run events url_http route method etag "
    "candidates dropped state exception settings version pid signal in_flight lag previous epoch times".split()
)


def configure(service: str, form: Literal["auto", "json", "pretty"] = "auto", level: str = "info") -> None:
    """Set up logging for this process; call it once, before anything logs. `auto`: pretty on a terminal, else JSON."""
    pretty = form == "pretty" or (form == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            only_allowed,
            structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    # Libraries log through the standard library; only their warnings matter.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_Forward()], force=True)


def get_logger() -> Any:
    """A logger; the first argument of its methods is the event."""
    return structlog.get_logger()


def only_allowed(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """A structlog processor: replaces values of fields not in `ALLOWED` by their length, and puts `FIRST` first."""
    ordered = {key: event[key] for key in FIRST if key in event} | dict(event)
    return {key: value if key in ALLOWED else f"<{len(str(value))} characters>" for key, value in ordered.items()}


class _Forward(logging.Handler):
    """Hands a library's log record to structlog as `library.warning` or the like."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger()
        event = f"library.{record.levelname.lower()}"
        # No stack traces: those of reconnects would hide the rest. asyncio puts the cause in the second line.
        detail = " ".join(f"{record.name}: {record.getMessage()}".splitlines()[:2])[:500]
        logger.log(record.levelno, event, detail=detail)
