"""`docs/explanation/promises.md`, written from the tables of mutations."""

from collections.abc import Iterator
from pathlib import Path

from tests.mutation.modules import MODULES
from tests.mutation.mutants import ROOT
from tests.mutation.promises import About, Promise
from tests.mutation.trial import BY_NAME

PAGE = ROOT / "docs/explanation/promises.md"
_HEAD = """\
# What is promised, and which test notices

Written by `python -m tests.mutation --write-promises` from the tables in `tests/mutation`; a test holds it to them.

Each row is a promise, told by what goes wrong without it, a test that turns red then, and how `make mutation` breaks \
the promise on purpose:

- a name such as `renewal-lost` is a fault of an effect at a port (`tests/mutation/effects.py`);
- a name such as `no-grace-period` is a decision that is made otherwise (`tests/mutation/behaviours.py`);
- a file such as `shared/worker/retry.py` is a module whose every small change is tried by mutmut \
(`tests/mutation/modules.py`).

[Why these three](../adr/0018-mutation-instead-of-pinned-faults.md).
"""


def page() -> str:
    """The whole of it."""
    return "\n".join((_HEAD, *(line for about in About for line in _table(about))))


def _table(about: About) -> Iterator[str]:
    yield f"## {about.value}\n"
    yield "| without it | the test that notices | broken by |"
    yield "|---|---|---|"
    for promise, name in guarded():
        if promise.about is about:
            file, _, test = promise.test.partition("::")
            yield f"| {promise.without} | `{Path(file).stem}::{test}` | `{name}` |"
    yield ""


def guarded() -> Iterator[tuple[Promise, str]]:
    """Each promise, and the name of what breaks it."""
    for name, broken in BY_NAME.items():
        yield from ((promise, name) for promise in broken.promises)
    for file, module in MODULES.items():
        yield from ((promise, file) for promise in module.promises)
