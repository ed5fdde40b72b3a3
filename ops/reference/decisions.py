"""The index of the decisions in `docs/adr`, and a check that each has a number, a title, a status and a date.

# 6. Cache before budget               file 0006-cache-before-budget.md
                                       (empty line)
Accepted, 2026-11-22.                  or `Superseded by [ADR 17](0017-….md), 2026-12-01.`
"""

import re
from collections.abc import Mapping

from ops.reference.text import Files, markdown, table

FOLDER = "docs/adr"
PAGE = f"{FOLDER}/README.md"
HEAD = re.compile(
    r"# (?P<number>[1-9]\d*)\. (?P<title>[^\n]+)\n\n"
    r"(?P<status>Proposed|Accepted|Superseded by \[ADR \d+\]\(\d{4}-[a-z0-9-]+\.md\)), (?P<date>\d{4}-\d\d-\d\d)\.\n"
)


def files(decisions: Mapping[str, str]) -> Files:
    """The index of `decisions` (file name → text).

    Raises `ValueError` when one does not begin as above, its file name is not made of its number and title, or a
    number is missing.
    """
    rows = [_row(name, decisions[name]) for name in sorted(decisions)]
    if [row[0] for row in rows] != [str(number) for number in range(1, len(rows) + 1)]:
        raise ValueError(f"{FOLDER}: the numbers must go from 1 to {len(rows)} without a gap")
    words = (
        "Each page explains one choice that someone may question: context, decision, consequences. To add one, take "
        "the next number, name the file after the title, and run `python -m ops.reference`."
    )
    return {PAGE: markdown("Decisions", words, table(("number", "title", "status", "date"), rows))}


def file_name(number: int, title: str) -> str:
    """`0006-cache-before-budget.md` for 6 and "Cache before budget"."""
    words = re.sub(r"[^a-z0-9]+", "-", title.lower().replace("'", "")).strip("-")
    return f"{number:04}-{words}.md"


def _row(name: str, text: str) -> tuple[str, str, str, str]:
    head = HEAD.match(text)
    if not head:
        raise ValueError(
            f"{FOLDER}/{name} must begin with `# N. Title`, an empty line, and `Accepted, YYYY-MM-DD.` "
            "(or Proposed, or Superseded by a link)"
        )
    number, title, status, date = head.group("number", "title", "status", "date")
    if name != file_name(int(number), title):
        raise ValueError(f"{FOLDER}/{name}: its title wants the file name {file_name(int(number), title)}")
    return number, f"[{title}]({name})", status, date
