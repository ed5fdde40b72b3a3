"""Every link in a Markdown file leads to a file that is here, and to a heading that it has."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.MULTILINE | re.DOTALL)
# The example's documents link to pages of a company that does not exist.
PAGES = sorted(
    path.relative_to(ROOT)
    for top in ("*.md", "[!.]*/**/*.md")
    for path in ROOT.glob(top)
    if not {"examples", "node_modules"} & set(path.relative_to(ROOT).parts)
)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for path, heading in LINK.findall(CODE.sub("", (ROOT / page).read_text("utf-8"))):
        target = (ROOT / page.parent / path).resolve() if path else ROOT / page
        if not target.exists() or (heading and heading not in headings(target)):
            broken.append(f"{path}#{heading}" if heading else path)
    assert not broken


def headings(page: Path) -> set[str]:
    """The anchors of `page`, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
