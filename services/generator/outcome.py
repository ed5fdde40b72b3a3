"""The outcome of a model's reply. Pure."""

import json
from datetime import datetime
from typing import Any

from services.generator.citations import rewritten, unverified, verify, without_unverified
from services.generator.leak import leaks
from services.generator.markup import inert, plain
from services.generator.planner import Choice
from services.generator.prompt import NO_ANSWER, Prompt, as_seen, says_no_answer
from services.generator.reply import Reply
from services.generator.structured import structured
from shared.access.use_cases import Grounding, UseCase
from shared.contracts.generate import GenerateAnswer
from shared.contracts.outcome import CacheState, Citation, Code, Outcome, Plan, RequestOutcome, Span, ending

CUT_OFF = "the answer was cut off at the use case's answer_tokens; raise them for longer answers"
LEAKED = (
    "the model's answer repeated its instructions instead of the documents, so it is withheld; ask about the documents"
)

NOTHING: tuple[str, Any, tuple[Citation, ...], tuple[Span, ...]] = ("", None, (), ())


def outcome_of(
    task: GenerateAnswer,
    choice: Choice,
    prompt: Prompt,
    reply: Reply,
    finished_at: datetime,
    use_case: UseCase,
) -> RequestOutcome:
    """The outcome for the model's `reply` to `prompt`: its text with the citations that hold, or no answer.

    `answered` only with a citation, in inert text; `no_answer` with code `NotInDocuments` when the model says so,
    `PromptLeak` when it repeats its instructions, `Ungrounded` when no citation holds, or when the use case refuses
    what is unverified. With an `output_schema` the reply is one that `data_of` accepts. The handler adds
    what it cost.
    """
    sources = tuple(map(as_seen, prompt.passages))
    said, data = inert(plain(reply.text), sources), None
    if use_case.output_schema is None:
        verified = verify(said, prompt.passages)
        # Once more: taking marks out may have put an address or a tag together.
        shown = rewritten(verified.text, lambda text: inert(text, sources))
        citations = tuple(each for each in verified.citations if f"[{each.marker}]" in shown)
        spans = tuple(Span(start=start, end=end) for start, end in unverified(shown))
        says_none = says_no_answer(said) or (NO_ANSWER in said and not citations)
    else:
        found = structured(reply.text, use_case.output_schema, prompt.passages)
        says_none = found is None
        shown, data, citations, spans = (
            (found.text, found.data, found.citations, found.unverified) if found else NOTHING
        )

    def quotable() -> str:
        turns = (turn.text for turn in task.request.conversation)
        return "\n".join(
            (*sources, task.request.question, *turns, json.dumps(use_case.output_schema, ensure_ascii=False))
        )

    outcome, text, truncated = Outcome.NO_ANSWER, "", False
    if says_none:
        code, message, citations = Code.NOT_IN_DOCUMENTS, "the documents do not contain the answer", ()
    elif leaks(shown, prompt.messages[0]["content"], quotable):
        code, message, citations = Code.PROMPT_LEAK, LEAKED, ()
    elif citations and spans and use_case.grounding is Grounding.REFUSE:
        code, message, citations = Code.UNGROUNDED, "a sentence of the model's answer has no citation that holds", ()
    elif citations:
        outcome, code, message = Outcome.ANSWERED, Code.OK, ""
        if reply.cut_off:
            code, message = Code.TRUNCATED, CUT_OFF
        text, truncated = shown, reply.cut_off
        if use_case.grounding is Grounding.DROP:
            text, spans = without_unverified(shown), ()
    else:
        code, message = Code.UNGROUNDED, "the model's answer could not be traced to a passage"
        message = f"{message}; {CUT_OFF}" if reply.cut_off else message
    return ending(
        task.request,
        outcome,
        code,
        message,
        text=text,
        citations=citations,
        data=data if text else None,
        unverified=spans if text else (),
        truncated=truncated,
        plan=_plan(choice, len(prompt.passages), len(task.candidates)),
        cache=CacheState.MISS if task.request.cache_key else CacheState.OFF,
        finished_at=finished_at,
    )


def _plan(choice: Choice, used: int, offered: int) -> Plan:
    """Which deployment answered; `used`: the passages in its prompt, of those that were `offered`."""
    deployment = choice.deployment
    return Plan(
        deployment=deployment.name,
        model=deployment.model,
        region=deployment.region,
        context_window=deployment.context_window,
        passages_used=used,
        passages_offered=offered,
        why=choice.why,
    )
