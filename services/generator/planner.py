"""Which deployment answers. Pure: the registry and the sizes in, an ordered list of choices out.

The smallest and cheapest deployment that holds everything comes first, a reserved one before all, and the others follow
as fallbacks:

    need 3,100 of [4K, 8K, 16K, 32K]  -> 4K, 8K, 16K, 32K
    need 6,000                        -> 8K, 16K, 32K, then 4K with fewer passages
    need 40,000                       -> 32K, 16K, 8K, 4K, each with fewer passages
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from shared.access.use_cases import UseCase
from shared.llm.deployments import Deployment, ModelKind

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Need:
    """The estimated tokens of one call."""

    fixed: int
    """System prompt, question and the marks around them: the fixed part of every call."""
    passages: int
    """All candidates, with their labels and marks."""
    answer: int

    @property
    def least(self) -> int:
        """What every call needs besides passages; a window must be larger."""
        return self.fixed + self.answer

    @property
    def all(self) -> int:
        """The window that holds every candidate."""
        return self.least + self.passages


@dataclass(frozen=True, slots=True)
class Choice:
    """A deployment, the window to fill, and why it stands where it stands."""

    deployment: Deployment
    window: int
    why: str


def plan(use_case: UseCase, deployments: Iterable[Deployment], need: Need) -> list[Choice]:
    """Every deployment that may and can answer, in the order to try them; empty: none can."""
    allowed = [deployment for deployment in deployments if _allowed(deployment, use_case)]
    able = [deployment for deployment in allowed if _window(deployment, use_case) > need.least]
    whole = [deployment for deployment in able if _window(deployment, use_case) >= need.all]
    partly = [deployment for deployment in able if deployment not in whole]
    whole.sort(key=lambda d: (not d.reserved, d.priority, d.context_window, _price(d, need), d.name))
    partly.sort(key=lambda d: (-_window(d, use_case), not d.reserved, d.priority, _price(d, need), d.name))
    choices = []
    for deployment in (*whole, *partly):
        window = _window(deployment, use_case)
        holds = "holds all candidates" if window >= need.all else "holds the best candidates"
        why = f"{deployment.name} in {deployment.region}: {window} tokens, need {need.all}; {holds}"
        choices.append(Choice(deployment, window, why))
    return choices


def why_none(use_case: UseCase, deployments: Iterable[Deployment], need: Need) -> str:
    """Why `plan` is empty, for the operator: the first condition that no deployment meets."""
    known = {deployment.name: deployment for deployment in deployments}
    named = [known[name] for name in use_case.deployments if name in known]
    chats = [deployment for deployment in named if deployment.kind is ModelKind.CHAT]
    if not chats:
        there = "none of them is a chat deployment" if named else "models.yaml has none of them"
        return f"use case {use_case.name} names {', '.join(use_case.deployments)}, and {there}"
    allowed = [deployment for deployment in chats if _allowed(deployment, use_case)]
    if not allowed:
        places = ", ".join(f"{deployment.name} is in {deployment.region}" for deployment in chats)
        return f"use case {use_case.name} allows the regions {', '.join(use_case.regions)}, but {places}"
    largest = max(_window(deployment, use_case) for deployment in allowed)
    return (
        f"prompt, question and answer need more than {need.least} tokens, and the largest window that use case "
        f"{use_case.name} may fill has {largest}"
    )


def at_attempt(choices: Sequence[C], attempt: int, tries: int) -> Sequence[C]:
    """All choices in the order of `attempt` (from 1): each comes first for `tries` attempts, then the next."""
    first = (attempt - 1) // tries % len(choices)
    return [*choices[first:], *choices[:first]]


def _allowed(deployment: Deployment, use_case: UseCase) -> bool:
    in_region = not use_case.regions or deployment.region in use_case.regions
    return deployment.kind is ModelKind.CHAT and deployment.name in use_case.deployments and in_region


def _window(deployment: Deployment, use_case: UseCase) -> int:
    """What prompt and answer may fill; reasoning takes its share of the deployment's window, not of the use case's."""
    return min(deployment.context_window - deployment.reasoning_tokens, use_case.context_window)


def _price(deployment: Deployment, need: Need) -> float:
    price = deployment.price
    return (need.fixed + need.passages) * price.input + (need.answer + deployment.reasoning_tokens) * price.output
