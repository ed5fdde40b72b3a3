"""What an ask will probably use, so that admission need not reserve a whole window for it. Pure.

The question's embedding, and one call of the deployment that is tried first: the use case's prompt, the question, the
conversation, the passages that such a prompt usually has, and a full answer. Before each call its worst case is
reserved in the estimate's place (services/generator/calls.py), so a low estimate lets nobody overspend.
"""

from collections.abc import Callable, Sequence

from shared.access.use_cases import UseCase
from shared.budget.price import amount
from shared.budget.rules import Amount
from shared.contracts.request import Request
from shared.llm.deployments import Deployment, ModelKind, Price
from shared.llm.tokens import PER_MESSAGE, count_tokens

# Of the room that a window has for passages, the part that they are taken to fill before any call has told better.
FIRST_GUESS = 0.5


# Of a request of a use case, with the usual tokens of its passages (None: unknown).
Estimate = Callable[[Request, UseCase, int | None], Amount]


class Estimates:
    """Estimates by the prices in models.yaml."""

    def __init__(self, deployments: Sequence[Deployment]) -> None:
        chats = [each for each in deployments if each.kind is ModelKind.CHAT]
        self._chats = sorted(chats, key=lambda each: (each.priority, each.context_window, each.name))
        embeddings = [each.price for each in deployments if each.kind is ModelKind.EMBEDDING]
        # The retriever's setting says which embeds; the dearest is no less.
        self._embedding = max(embeddings, key=lambda price: price.input, default=Price())

    def of(self, request: Request, use_case: UseCase, passages: int | None) -> Amount:
        """What `request` will probably use; `passages`: the tokens of a prompt's passages, None: unknown."""
        first = next((each for each in self._chats if each.name in use_case.deployments), None)
        turns = [turn.text for turn in request.conversation]
        asked = sum(count_tokens(text) + PER_MESSAGE for text in (use_case.prompt, request.question, *turns))
        window = min(use_case.context_window, first.context_window if first is not None else use_case.context_window)
        room = max(0, window - use_case.answer_tokens - asked)
        prompt = asked + min(room, int(room * FIRST_GUESS) if passages is None else passages)
        call = amount(first.price if first is not None else Price(), prompt, use_case.answer_tokens)
        search = amount(self._embedding, count_tokens("\n".join([*turns[-1:], request.question])), 0)
        return Amount(call.tokens + search.tokens, call.usd + search.usd)
