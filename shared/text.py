"""Text from outside: what is kept of it, and how much. Pure."""

# Enough of another program's error to see what it is about; pages of HTML have been seen.
BRIEF = 500


def brief(text: str, most: int = BRIEF) -> str:
    """`text` in one line, without the end of a long one."""
    words = " ".join(text[: 4 * most].split())
    return words if len(words) <= most and len(text) <= 4 * most else words[:most] + " …"
