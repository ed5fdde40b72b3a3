"""A plant: a fault put into the code on purpose, and the tests that must notice it."""

from dataclasses import dataclass


class Moved(Exception):
    """The code that a plant changes is not there (once) any more; the text says where it was."""


@dataclass(frozen=True, slots=True)
class Plant:
    """One fault, as the replacement of a text that occurs exactly once in its file."""

    name: str
    breaks: str
    """What goes wrong with it, in a sentence."""
    file: str
    old: str
    new: str
    red: tuple[str, ...]
    """Node ids of the tests of which at least one must fail: few and fast ones."""

    def sow(self, text: str) -> str:
        """`text` of the file with the fault in it; raises `Moved`."""
        found = text.count(self.old)
        if found != 1:
            raise Moved(f"{self.name}: the code has moved on, mend the plant: {self.file} has {found} of {self.old!r}")
        return text.replace(self.old, self.new)
