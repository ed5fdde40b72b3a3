"""Requests and the like for tests, with everything filled in that a test does not care about."""

from datetime import UTC, datetime, timedelta
from typing import Any

from shared.access.use_cases import UseCase
from shared.contracts.generate import Candidate
from shared.contracts.request import ReplyTo, Request
from shared.llm.deployments import Deployment

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def a_request(**changes: Any) -> Request:
    """An admitted request."""
    given: dict[str, Any] = {
        "request_id": "r1",
        "tenant": "tessolund",
        "caller": "welcome-app",
        "groups": ("employees",),
        "use_case": "onboarding",
        "question": "How many days of annual leave do I get?",
        "accepted_at": NOW,
        "answer_by": NOW + timedelta(seconds=60),
        "correlation_id": "c1",
        "reply_to": ReplyTo(queue="answers", session="s1"),
        **changes,
    }
    return Request(**given)


def a_candidate(number: int = 1, **changes: Any) -> Candidate:
    """A passage."""
    text = changes.get("text", f"New employees receive {20 + number} days of annual leave per year.")
    given: dict[str, Any] = {
        "passage_id": f"p{number}",
        "path": f"leave-{number}.md",
        "version": 1,
        "title": "Leave policy",
        "section": "Annual leave",
        "start": 100,
        "end": 100 + len(text),
        "text": text,
        "tokens": 20,
        "score": 1 / number,
        **changes,
    }
    return Candidate(**given)


def a_use_case(**changes: Any) -> UseCase:
    """A use case on a 4,000-token model."""
    given: dict[str, Any] = {
        "name": "onboarding",
        "collection": "handbook",
        "prompt": "Answer from the passages.",
        "deployments": ("small", "other"),
        "context_window": 4000,
        "answer_tokens": 400,
        "question_tokens": 600,
        **changes,
    }
    return UseCase(**given)


def a_deployment(name: str, window: int, **changes: Any) -> Deployment:
    given = {"provider": "openai", "endpoint": "http://x", "model": name, "region": "westeurope", **changes}
    return Deployment.model_validate({"name": name, "context_window": window, **given})
