"""Prints an outcome for a person."""

import textwrap
from typing import Any

from ops import console

Answer = dict[str, Any]
_COLOURS = {"no_answer": "yellow"}


def show(answer: Answer, seconds: float) -> None:
    """Print the answer, its citations, and its cost, plan and ids; `seconds`: how long it took."""
    outcome = str(answer.get("outcome", "?"))
    said = str(answer.get("text") or answer.get("message") or "")
    _print(said, "bold" if outcome == "answered" else _COLOURS.get(outcome, "red"))
    for line in citations(answer):
        _print(line, "cyan")
    for line in circumstances(answer, seconds):
        _print(line, "dim")


def citations(answer: Answer) -> list[str]:
    """One line per citation: marker, document, section, page, version."""
    lines = []
    for citation in answer.get("citations", ()):
        where = [str(citation.get("path", "?"))]
        if citation.get("section"):
            where.append(f"section “{citation['section']}”")
        if citation.get("page") is not None:
            where.append(f"page {citation['page']}")
        lines.append(f"[{citation.get('marker', '?')}] {', '.join(where)} (version {citation.get('version', '?')})")
    return lines


def circumstances(answer: Answer, seconds: float) -> list[str]:
    """Outcome, cache, time, tokens and cost; then the plan; then the ids."""
    usage, cost = answer.get("usage", {}), answer.get("cost", {})
    outcome, code = answer.get("outcome", "?"), answer.get("code", "?")
    facts = [
        outcome if code == "Ok" else f"{outcome} ({code})",
        f"cache {answer.get('cache', '?')}",
        f"{seconds:.2f} s",
        f"{usage.get('prompt_tokens', 0)} + {usage.get('completion_tokens', 0)} tokens",
        f"{cost.get('amount', 0):.6f} {cost.get('currency', '')}".strip(),
    ]
    lines = [" · ".join(facts)]
    if plan := answer.get("plan"):
        used = f"{plan.get('passages_used', '?')} of {plan.get('passages_offered', '?')} passages"
        lines.append(f"plan: {plan.get('deployment', '?')} in {plan.get('region', '?')}, {used}; {plan.get('why', '')}")
    return [*lines, f"request {answer.get('request_id', '?')} · trace {answer.get('trace_id') or '-'}"]


def _print(text: str, style: str) -> None:
    out = console.out()
    width = max(out.width, 40)
    for line in console.harmless(text).splitlines():
        wrapped = textwrap.fill(line, width, initial_indent="  ", subsequent_indent="  ")
        out.print(wrapped, style=style, markup=False)
