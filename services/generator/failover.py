"""The deployments of a plan in turn, until one answers."""

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from secrets import token_hex
from typing import Any

from services.generator.calls import ModelCalls, OverBudget, TooLate
from services.generator.outcome import outcome_of
from services.generator.planner import Choice
from services.generator.prompt import Prompt, fit
from services.generator.reply import NoAnswer, Reply
from services.generator.structured import InvalidStructure, data_of, repair_messages, system_prompt, wrapped
from shared.access.use_cases import UseCase
from shared.contracts.generate import GenerateAnswer
from shared.contracts.outcome import Code, ModelCall, RequestOutcome
from shared.errors import DeadlineMissed, DependencyDown, OverQuota, TryLater, Unprocessable
from shared.llm.errors import NOTHING, ContextTooLong, Fault, ModelRefused, Throttled
from shared.llm.tokens import PER_MESSAGE, count_tokens
from shared.quoting import quoted
from shared.telemetry.logs import get_logger

log = get_logger()

# Our estimate was too low once; a prompt this much smaller is tried once.
SHRINK = 0.75

# Calls of one request and deployment that may be paid for and bring nothing: replies that are no completion, which will
# hardly change, and calls that broke off or timed out, as they do in an outage, which may end before the deadline.
MOST_IN_VAIN = {Code.INVALID_REPLY: 3, Fault.DOWN: 8}
# Results of calls that were complete.
WITHOUT_ANSWER = (Code.EMPTY_ANSWER, Code.REASONING_ONLY, Code.TOOL_CALLED)

# What another attempt needs: the first wait of a retry, a call, and the time to send its outcome.
ANOTHER_TRY = timedelta(seconds=3)

Failure = TryLater | Unprocessable


class Failover:
    """Tries one deployment after the other."""

    def __init__(self, calls: ModelCalls, clock: Callable[[], datetime]) -> None:
        self._calls = calls
        self._clock = clock

    async def answer(
        self, choices: Sequence[Choice], use_case: UseCase, task: GenerateAnswer, earlier: Sequence[ModelCall] = ()
    ) -> RequestOutcome:
        """Call the choices in turn; if none has quota left, wait in the line of the one that has it first.

        `earlier`: the calls that this request has made, in all attempts; see `worth_calling`.

        Raises the failure that all of them together mean, `OverQuota` with a place in a line, `OverBudget`, or
        `TooLate` when none can answer in time.
        """
        choices, failures = worth_calling(choices, earlier)
        try:
            return await self._in_turn(choices, use_case, task, earlier, failures)
        except OverQuota as over:
            # The next attempt must know what was paid for in this one.
            over.counts = over.counts or any(getattr(failure, "used", NOTHING).tokens for failure in failures)
            raise

    async def _in_turn(
        self,
        choices: Sequence[Choice],
        use_case: UseCase,
        task: GenerateAnswer,
        earlier: Sequence[ModelCall],
        failures: list[Failure],
    ) -> RequestOutcome:
        """See `answer`; adds to `failures`."""
        too_late: list[TooLate] = []
        too_dear: list[OverBudget] = []
        full: list[tuple[OverQuota | Throttled, Choice]] = []
        for position, choice in enumerate(choices):
            following = [self._calls.usual(later.deployment, task.request) for later in choices[position + 1 :]]
            next_usual, waits = min(following, default=None), len(choices) == 1
            try:
                return await self._answer_with(choice, use_case, task, earlier, next_usual=next_usual, waits=waits)
            except (ModelRefused, DeadlineMissed) as final:
                fault = str(getattr(final, "fault", ""))
                log.info("model.failed", deployment=choice.deployment.name, fault=fault, detail=str(final))
                raise
            except TooLate as late:
                too_late.append(late)
            except OverBudget as dear:
                too_dear.append(dear)  # the next may cost less
            except (OverQuota, Throttled) as over:
                if isinstance(over, OverQuota) and over.fits:
                    raise
                log.info("model.over_quota", deployment=choice.deployment.name, wait=over.after.total_seconds())
                full.append((over, choice))
            except (TryLater, Unprocessable) as failure:
                fault = str(getattr(failure, "fault", ""))
                # An operator's own mistake stays unseen while another deployment answers.
                report = log.warning if fault == Fault.CONFIGURATION else log.info
                report("model.failed", deployment=choice.deployment.name, fault=fault, detail=str(failure))
                failures.append(failure)
        if full:
            _, choice = min(full, key=lambda each: each[0].after)
            try:
                return await self._in_line(choice, use_case, task, earlier)
            except TooLate as late:
                too_late.append(late)
        if any(isinstance(failure, TryLater) for failure in failures) or not (too_late or too_dear):
            raise _combined(failures)
        if too_dear:
            raise min(too_dear, key=lambda dear: math.inf if dear.retry_after is None else dear.retry_after)
        raise min(too_late, key=lambda late: late.wait)

    async def _in_line(
        self, choice: Choice, use_case: UseCase, task: GenerateAnswer, earlier: Sequence[ModelCall]
    ) -> RequestOutcome:
        """Take a place in the line of `choice`, or call it if its turn has come; raises `TooLate` if it is too late."""
        try:
            return await self._answer_with(choice, use_case, task, earlier)
        except (OverQuota, Throttled) as still:
            left = task.request.answer_by - self._clock()
            # A throttle now: it has its turn by our count, and not by the provider's.
            if still.fits if isinstance(still, OverQuota) else still.after + ANOTHER_TRY < left:
                raise
            raise TooLate(str(still), (still.after - left).total_seconds()) from still

    async def _answer_with(
        self,
        choice: Choice,
        use_case: UseCase,
        task: GenerateAnswer,
        earlier: Sequence[ModelCall],
        *,
        next_usual: timedelta | None = None,
        waits: bool = True,
    ) -> RequestOutcome:
        """Fit the passages into the window of `choice`, call it (see `ModelCalls.call`), and check what it says.

        Raises `ContextTooLong` when no passage fits, also after the prompt was shrunk once; `TooLate` and `Cancelled`
        when no call was made or it was broken off; what `Model.complete` raises.
        """
        answer_tokens = choice.deployment.answer_limit(use_case.answer_tokens)
        room = choice.window - answer_tokens
        output_tokens = answer_tokens + choice.deployment.reasoning_tokens
        schema = use_case.output_schema
        fitted = partial(
            fit,
            system_prompt(use_case.prompt, schema),
            task.request,
            task.candidates,
            draw=partial(token_hex, 4),
            schema=schema and wrapped(schema),
        )
        prompt = fitted(room)
        shrunk = any(call.deployment == choice.deployment.name and call.result == Fault.TOO_LONG for call in earlier)
        if shrunk:
            # Of what was sent: the window that models.yaml claims may be much too large.
            room = int(min(room, prompt.tokens) * SHRINK)
            prompt = fitted(room)
        if not prompt.passages:
            raise ContextTooLong(f"no passage fits into the {choice.window} tokens of {choice.deployment.name}")
        call = partial(self._calls.call, choice.deployment, next_usual=next_usual, waits=waits)
        try:
            reply = await call(prompt, output_tokens, task.request)
        except ContextTooLong as long:
            log.info("model.prompt_too_long", deployment=choice.deployment.name, detail=long.detail)
            if shrunk:
                raise
            room = int(min(room, prompt.tokens) * SHRINK)
            prompt = fitted(room)
            if not prompt.passages:
                raise
            try:
                reply = await call(prompt, output_tokens, task.request)
            except OverQuota as over:
                over.counts = True  # so that the long prompt is not sent again at its turn
                raise
        if schema is not None:
            reply = await self._repaired(
                reply, schema, prompt, partial(call, answer_tokens=output_tokens), choice, task
            )
        return outcome_of(task, choice, prompt, reply, self._clock(), use_case)

    async def _repaired(
        self,
        reply: Reply,
        schema: Mapping[str, Any],
        prompt: Prompt,
        call: Callable[..., Awaitable[Reply]],
        choice: Choice,
        task: GenerateAnswer,
    ) -> Reply:
        """`reply` if it fits `schema`, else what the model makes of it when it is told once what is wrong.

        Raises `NoAnswer` (`InvalidStructure`) when that does not fit either, or cannot be asked for.
        """
        name = choice.deployment.name
        try:
            data_of(reply.text, schema, prompt.passages)
            return reply
        except InvalidStructure as wrong:
            log.info("model.invalid_structure", deployment=name, detail=str(wrong), cut_off=reply.cut_off)
            if reply.cut_off:
                detail = f"{name}: the JSON was cut off at the use case's answer_tokens; raise them, or ask for less"
                raise NoAnswer(Code.INVALID_STRUCTURE, detail, reply.used) from wrong
            messages = repair_messages(schema, quoted(reply.text), str(wrong))
            tokens = sum(count_tokens(message["content"]) + PER_MESSAGE for message in messages)
        try:
            again = await call(Prompt(messages, prompt.passages, tokens, prompt.schema), request=task.request)
            data_of(again.text, schema, prompt.passages)
        except InvalidStructure as wrong:
            detail = f"{name}: the model's JSON does not fit output_schema, also after it was told why: {wrong}"
            raise NoAnswer(Code.INVALID_STRUCTURE, detail, reply.used) from wrong
        except (OverBudget, TooLate, TryLater) as busy:  # another attempt would buy the first call again
            detail = f"{name}: the model's JSON does not fit output_schema, and it could not be asked again: {busy}"
            raise NoAnswer(Code.INVALID_STRUCTURE, detail, reply.used) from busy
        return again


def _combined(failures: Sequence[Failure]) -> Failure:
    """What the failures of several deployments mean for the work: the earliest retry that any of them allows."""
    said = "; ".join(map(str, failures))
    if later := [failure for failure in failures if isinstance(failure, TryLater)]:
        kind = DependencyDown if all(isinstance(failure, DependencyDown) for failure in later) else TryLater
        return kind(said, after=min(failure.after for failure in later))
    # Failures of the deployments themselves (a key, a name, a window): waiting does not help. A reply tells more.
    # A window that is too small says least: the other deployment may have had a larger one.
    return min(failures, key=lambda failure: (not isinstance(failure, NoAnswer), isinstance(failure, ContextTooLong)))


def worth_calling(choices: Sequence[Choice], earlier: Sequence[ModelCall]) -> tuple[Sequence[Choice], list[Failure]]:
    """The choices that may bring an answer, and why the others are left out; `earlier`: calls of the same request."""
    if not earlier:
        return choices, []
    in_vain = {choice.deployment.name: spent_in_vain(choice.deployment.name, earlier) for choice in choices}
    worth = [choice for choice in choices if in_vain[choice.deployment.name] is None]
    return worth, [failure for failure in in_vain.values() if failure is not None]


def spent_in_vain(deployment: str, earlier: Sequence[ModelCall]) -> NoAnswer | None:
    """Why `deployment` is not called any more for a request with the calls `earlier`; None: it may be called.

    What is the same at every attempt is not bought again and again: a reply without an answer once (models are asked
    at temperature 0), other calls as often as `MOST_IN_VAIN` says.
    """
    paid = Counter(
        call.result for call in earlier if call.deployment == deployment and call.prompt_tokens + call.completion_tokens
    )
    for code in WITHOUT_ANSWER:
        if paid[code]:
            return NoAnswer(code, f"{deployment}: an earlier attempt ended as {code}, and this one would, too")
    for result, most in MOST_IN_VAIN.items():
        if paid[result] >= most:
            why = f"{deployment}: {paid[result]} calls were paid for and brought no answer; look at the server"
            return NoAnswer(Code.INVALID_REPLY, why)
    return None
