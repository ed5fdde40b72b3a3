"""`python -m ops.reference` writes the generated files; `--check` only says which are not current, with status 1."""

import argparse
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from ops.reference import asyncapi, decisions, emulator, examples, outcomes, queues, schemas, settings, states
from ops.reference.text import Files
from shared.access.callers import Callers

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = "tests/contracts/golden"
# Folders with generated files only, in which other files are left over.
OWNED = (schemas.FOLDER, f"{examples.COMPOSE}/use_cases", examples.KUBERNETES)


def generate(root: Path) -> Files:
    """Every generated file of the project in `root`."""
    callers = Callers.read(root / examples.CALLERS)
    installed = examples.queues_of(callers)
    texts = _example_texts(root)
    version = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    return {
        **schemas.files(),
        **asyncapi.files(installed, examples.doors_of(callers), _goldens(root), version),
        **queues.files(installed),
        **outcomes.files(),
        **states.files((root / states.PAGE).read_text("utf-8")),
        **settings.files(settings.classes(), texts[examples.MODELS]),
        **emulator.files(examples.queues_of(examples.only_first(callers))),
        **examples.files(callers, texts),
        **decisions.files(_decisions(root)),
    }


def not_current(root: Path, wanted: Files) -> list[str]:
    """The paths whose file is missing, differs, or is no longer generated."""
    differing = [path for path, text in wanted.items() if _read(root / path) != text]
    left_over = [path for path in _owned(root) if path not in wanted]
    return sorted(differing + left_over)


def write(root: Path, wanted: Files) -> list[str]:
    """Bring the files up to date; returns the paths that changed."""
    changed = not_current(root, wanted)
    for path in changed:
        if path in wanted:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(wanted[path], "utf-8")
        else:
            (root / path).unlink()
    return changed


def _example_texts(root: Path) -> dict[str, str]:
    use_cases = sorted((root / examples.USE_CASES).glob("*.yaml"))
    paths = [examples.CALLERS, examples.MODELS, examples.SOURCES, *(str(path.relative_to(root)) for path in use_cases)]
    return {path: (root / path).read_text("utf-8") for path in paths}


def _decisions(root: Path) -> dict[str, str]:
    pages = (path for path in (root / decisions.FOLDER).glob("*.md") if path.name != "README.md")
    return {path.name: path.read_text("utf-8") for path in pages}


def _goldens(root: Path) -> dict[str, Any]:
    """A body by kind; storage events by kind and file name."""
    bodies = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((root / GOLDEN).glob("*.json"))}
    events = sorted((root / GOLDEN / "storage").glob("*-blob-created.json"))
    return bodies | {f"{asyncapi.STORAGE_EVENT}: {path.stem}": json.loads(path.read_text("utf-8")) for path in events}


def _owned(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for folder in OWNED for path in (root / folder).rglob("*") if path.is_file()]


def _read(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None


def main(argv: list[str] | None = None) -> int:
    """0: all is current (now)."""
    parser = argparse.ArgumentParser("python -m ops.reference", description="Write what is generated from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a file is not current")
    if parser.parse_args(argv).check:
        stale = not_current(ROOT, generate(ROOT))
        sys.stdout.writelines(f"not current: {path}\n" for path in stale)
        if stale:
            sys.stdout.write("run `python -m ops.reference` and look at the difference\n")
        return bool(stale)
    sys.stdout.writelines(f"written: {path}\n" for path in write(ROOT, generate(ROOT)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
