"""What can go wrong with the stack, each as one sentence that says what to do.

StackError
├── CannotStart     something in the way, or a part did not become ready
└── Died            a part ended by itself
"""


class StackError(Exception):
    """The text is meant for the person who started the stack."""


class CannotStart(StackError):
    """Nothing runs: whatever had been started was stopped again."""


class Died(StackError):
    """A part ended that should not have; everything else was stopped."""
