"""How an outcome is shown to a person."""

import textwrap
from typing import Any

from ops import console

Answer = dict[str, Any]
_COLOURS = {"no_answer": "yellow"}


def show(answer: Answer, seconds: float) -> None:
    """Print the answer, what it rests on, and how it came about."""
    outcome = str(answer.get("outcome", "?"))
    said = str(answer.get("text") or answer.get("message") or "")
    _print(said, "bold" if outcome == "answered" else _COLOURS.get(outcome, "red"))
    for line in citations(answer):
        _print(line, "cyan")
    for line in circumstances(answer, seconds):
        _print(line, "dim")


def citations(answer: Answer) -> list[str]:
    """One line per citation: marker, document, where in it, and which version."""
    return [_citation(citation) for citation in answer.get("citations", ())]


def circumstances(answer: Answer, seconds: float) -> list[str]:
    """Outcome, cache, time, tokens and cost; then the plan; then how to find it again."""
    usage, cost = answer.get("usage", {}), answer.get("cost", {})
    outcome, code = answer.get("outcome", "?"), answer.get("code", "?")
    facts = [
        outcome if code == "Ok" else f"{outcome} ({code})",
        f"cache {answer.get('cache', '?')}",
        f"{seconds:.2f} s",
        f"{usage.get('prompt_tokens', 0)} + {usage.get('completion_tokens', 0)} tokens",
        f"{cost.get('amount', 0):.6f} {cost.get('currency', '')}".strip(),
    ]
    return [
        " · ".join(facts),
        *([_plan(answer["plan"])] if answer.get("plan") else []),
        (f"request {answer.get('request_id', '?')} · trace {answer.get('trace_id') or '-'}"),
    ]


def _print(text: str, style: str) -> None:
    out = console.out()
    width = max(out.width, 40)
    for line in console.harmless(text).splitlines():
        wrapped = textwrap.fill(line, width, initial_indent="  ", subsequent_indent="  ")
        out.print(wrapped, style=style, markup=False)


def _citation(citation: dict[str, Any]) -> str:
    where = [str(citation.get("path", "?"))]
    if citation.get("section"):
        where.append(f"section “{citation['section']}”")
    if citation.get("page") is not None:
        where.append(f"page {citation['page']}")
    return f"[{citation.get('marker', '?')}] {', '.join(where)} (version {citation.get('version', '?')})"


def _plan(plan: dict[str, Any]) -> str:
    used = f"{plan.get('passages_used', '?')} of {plan.get('passages_offered', '?')} passages"
    return f"plan: {plan.get('deployment', '?')} in {plan.get('region', '?')}, {used}; {plan.get('why', '')}"
