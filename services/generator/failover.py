"""The deployments of a plan in turn, until one answers."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from secrets import token_hex
from typing import TypeGuard

from services.generator.calls import MARGIN, ModelCalls, TooLate
from services.generator.outcome import outcome_of
from services.generator.planner import Choice
from services.generator.prompt import fit
from shared.access.use_cases import UseCase
from shared.contracts.generate import GenerateAnswer
from shared.contracts.outcome import RequestOutcome
from shared.errors import DeadlineMissed, DependencyDown, TryLater, Unprocessable
from shared.llm.errors import ContextTooLong, ModelRefused
from shared.telemetry.logs import get_logger

log = get_logger()

# A model that asks to wait longer than this is left for the next deployment at once.
PATIENCE = timedelta(seconds=20)
# Our estimate was too low once; a prompt this much smaller is tried once.
SHRINK = 0.75

Failure = TryLater | Unprocessable


class Failover:
    """Tries one deployment after the other."""

    def __init__(self, calls: ModelCalls, clock: Callable[[], datetime]) -> None:
        self._calls = calls
        self._clock = clock

    async def answer(self, choices: Sequence[Choice], use_case: UseCase, task: GenerateAnswer) -> RequestOutcome:
        """Call the choices in turn; stop when a busy one says when to come back and there is time for that.

        Raises the failure that all of them together mean, or `TooLate` when none was called.
        """
        failures: list[Failure] = []
        too_late: list[TooLate] = []
        for choice in choices:
            try:
                return await self._answer_with(choice, use_case, task)
            except (ModelRefused, DeadlineMissed):
                raise
            except TooLate as late:
                too_late.append(late)
            except (TryLater, Unprocessable) as failure:
                log.info("model.failed", deployment=choice.deployment.name, detail=str(failure))
                failures.append(failure)
                if _is_throttle(failure):
                    back_at = self._clock() + failure.after
                    if failure.after <= PATIENCE and back_at + MARGIN < task.request.answer_by:
                        break
        if not failures:
            raise min(too_late, key=lambda late: late.usual)
        raise _combined(failures)

    async def _answer_with(self, choice: Choice, use_case: UseCase, task: GenerateAnswer) -> RequestOutcome:
        """Fit the passages into the window of `choice`, call it, and check what it says.

        Raises `ContextTooLong` when no passage fits, also after the prompt was shrunk once; `TooLate` and `Cancelled`
        when no call was made or it was broken off; what `Model.complete` raises.
        """
        answer_tokens = min(use_case.answer_tokens, choice.deployment.max_output or use_case.answer_tokens)
        room = choice.window - answer_tokens
        prompt = fit(use_case.prompt, task.request, task.candidates, room, nonce=token_hex(4))
        if not prompt.passages:
            raise ContextTooLong(f"no passage fits into the {choice.window} tokens of {choice.deployment.name}")
        try:
            reply = await self._calls.call(choice.deployment, prompt, answer_tokens, task.request)
        except ContextTooLong:
            prompt = fit(use_case.prompt, task.request, task.candidates, int(room * SHRINK), nonce=token_hex(4))
            if not prompt.passages:
                raise
            reply = await self._calls.call(choice.deployment, prompt, answer_tokens, task.request)
        return outcome_of(task, choice, prompt, reply, self._clock())


def _is_throttle(failure: Failure) -> TypeGuard[TryLater]:
    return isinstance(failure, TryLater) and not isinstance(failure, DependencyDown)


def _combined(failures: Sequence[Failure]) -> Failure:
    """What the failures of several deployments mean for the work: the earliest retry that any of them allows."""
    said = "; ".join(map(str, failures))
    if throttles := [failure.after for failure in failures if _is_throttle(failure)]:
        return TryLater(said, after=min(throttles))
    if down := [failure.after for failure in failures if isinstance(failure, DependencyDown)]:
        return DependencyDown(said, after=min(down))
    # Failures of the deployments themselves (a key, a name, a window): waiting does not help.
    return failures[-1]
