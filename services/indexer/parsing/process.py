"""`python -m services.indexer.parsing.process LIMITS`: parses files in a process with limits; some are hostile.

On standard input, one after another: a line of JSON with path, content_type and size, then that many bytes.
On standard output, first `{"ready": true}`, then a line of JSON per document: `{"document": …}` or `{"refused": …}`.
Memory and processor time are limited. A document that needs too much memory is refused or kills the process; one that
needs too much processor time kills it by SIGXCPU. The parent then starts another.
"""

import contextlib
import json
import math
import os
import resource
import sys
from dataclasses import asdict
from typing import BinaryIO

import kreuzberg

from services.indexer.parsing.formats import Limits, read
from services.indexer.parsing.office import Unreadable

_EMPTY_PDF = (
    b"%PDF-1.1\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj "
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\ntrailer<</Root 1 0 R>>"
)


def main() -> None:
    """Parse until the parent closes standard input."""
    limits = Limits(**json.loads(sys.argv[1]))
    # Standard output is for answers: what native code prints goes to standard error.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # The first PDF on a machine makes the PDF library unpack itself into TMPDIR, which the limits below forbid.
    with contextlib.suppress(Exception):
        kreuzberg.extract_bytes_sync(_EMPTY_PDF, "application/pdf")
    _limit(resource.RLIMIT_AS, limits.memory_bytes)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _answer(answers, {"ready": True})
    while header := sys.stdin.buffer.readline():
        asked = json.loads(header)
        data = sys.stdin.buffer.read(asked["size"])
        _allow_seconds(limits.cpu_seconds)
        _answer(answers, _parse(data, asked["path"], asked["content_type"], limits))


def _parse(data: bytes, path: str, content_type: str, limits: Limits) -> dict[str, object]:
    try:
        return {"document": asdict(read(data, path, content_type, limits))}
    except Unreadable as refused:
        return {"refused": str(refused)}
    except (MemoryError, RecursionError) as exhausted:
        return {"refused": f"reading it needs too much memory ({type(exhausted).__name__})"}
    except Exception as bug:  # noqa: BLE001
        # Any failure of a parser is due to the file.
        return {"refused": f"the parser failed: {bug!r}"[:500]}


def _answer(answers: BinaryIO, value: dict[str, object]) -> None:
    answers.write(json.dumps(value).encode() + b"\n")
    answers.flush()


def _allow_seconds(seconds: int) -> None:
    """Allow `seconds` more for this document; the limit counts the whole life of the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(used.ru_utime + used.ru_stime) + seconds
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _limit(which: int, value: int) -> None:
    # macOS refuses RLIMIT_AS; the wall clock still limits a document there.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(which, (value, value))


if __name__ == "__main__":
    main()
