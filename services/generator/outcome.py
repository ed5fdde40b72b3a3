"""The outcome of a model's reply. Pure."""

from datetime import datetime

from services.generator.citations import verify
from services.generator.planner import Choice
from services.generator.prompt import NO_ANSWER, Prompt, says_no_answer
from services.generator.reply import Reply
from shared.contracts.generate import GenerateAnswer
from shared.contracts.outcome import CacheState, Code, ModelCall, Outcome, Plan, RequestOutcome, charged, ending
from shared.text import visible

CUT_OFF = "the answer was cut off at the use case's answer_tokens"


def outcome_of(
    task: GenerateAnswer, choice: Choice, prompt: Prompt, reply: Reply, finished_at: datetime
) -> RequestOutcome:
    """The outcome for the model's `reply` to `prompt`: its text with the citations that hold, or no answer.

    `answered` only with a citation; `no_answer` with code `NotInDocuments` when the model says so, `Ungrounded` when no
    citation holds. Prices are per million tokens.
    """
    said = visible(reply.text)
    verified = verify(said, prompt.passages)
    deployment, price = choice.deployment, choice.deployment.price
    amount = (reply.prompt_tokens * price.input + reply.completion_tokens * price.output) / 1_000_000
    outcome, text, citations, truncated = Outcome.NO_ANSWER, "", verified.citations, False
    if says_no_answer(said) or (NO_ANSWER in said and not citations):
        code, message, citations = Code.NOT_IN_DOCUMENTS, "the documents do not contain the answer", ()
    elif citations:
        outcome, code, message = Outcome.ANSWERED, Code.OK, CUT_OFF if reply.cut_off else ""
        text, truncated = verified.text, reply.cut_off
    else:
        code, message = Code.UNGROUNDED, "the model's answer could not be traced to a passage"
        message = f"{message}; {CUT_OFF}" if reply.cut_off else message
    ended = ending(
        task.request,
        outcome,
        code,
        message,
        text=text,
        citations=citations,
        truncated=truncated,
        plan=Plan(
            deployment=deployment.name,
            model=deployment.model,
            region=deployment.region,
            context_window=deployment.context_window,
            passages_used=len(prompt.passages),
            passages_offered=len(task.candidates),
            why=choice.why,
        ),
        cache=CacheState.MISS if task.request.cache_key else CacheState.OFF,
        finished_at=finished_at,
    )
    call = ModelCall(
        deployment=deployment.name,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        cost=max(0.0, round(amount, 6)),
        estimated=reply.estimated,
    )
    return charged(ended, [call])
