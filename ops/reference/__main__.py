"""`python -m ops.reference` writes the generated files; `--check` only lists those that are not current."""

import argparse
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from ops.reference import asyncapi, decisions, emulator, examples, models, outcomes, queues, schemas, settings, states
from ops.reference.text import Files
from shared.access.callers import Callers

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = "tests/contracts/golden"
# Folders with generated files only, in which other files are left over.
OWNED = (schemas.FOLDER, f"{examples.COMPOSE}/use_cases", examples.KUBERNETES)


def generate(root: Path) -> Files:
    """Every generated file of the project in `root`; raises `ValueError` or `SettingsError` for a wrong source."""
    callers = Callers.read(root / examples.CALLERS)
    installed = examples.queues_of(callers)
    use_cases = (str(path.relative_to(root)) for path in sorted((root / examples.USE_CASES).glob("*.yaml")))
    sources = (examples.CALLERS, examples.MODELS, examples.SOURCES, *use_cases)
    texts = {path: (root / path).read_text("utf-8") for path in sources}
    # An example body by kind; storage events by kind and file name.
    bodies: dict[str, Any] = {path.stem: _json(path) for path in sorted((root / GOLDEN).glob("*.json"))}
    for path in sorted((root / GOLDEN / "storage").glob("*-blob-created.json")):
        bodies[f"{asyncapi.STORAGE_EVENT}: {path.stem}"] = _json(path)
    blocks = {str(path.relative_to(root)): path.read_text("utf-8") for path in (root / models.FOLDER).glob("*.yaml")}
    adrs = (path for path in (root / decisions.FOLDER).glob("*.md") if path.name != "README.md")
    version = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    return {
        **schemas.files(),
        **asyncapi.files(installed, examples.reply_queues_of(callers), bodies, version),
        **queues.files(installed),
        **outcomes.files(),
        **states.files((root / states.PAGE).read_text("utf-8")),
        **models.files(blocks),
        **settings.files(settings.classes(), texts[examples.MODELS]),
        **emulator.files(examples.queues_of(examples.only_first(callers))),
        **examples.files(callers, texts),
        **decisions.files({path.name: path.read_text("utf-8") for path in adrs}),
    }


def not_current(root: Path, wanted: Files) -> list[str]:
    """The paths whose file is missing, differs, or is no longer generated."""
    here = {path: root / path for path in wanted}
    differing = [path for path, file in here.items() if not file.is_file() or file.read_text("utf-8") != wanted[path]]
    owned = (file for folder in OWNED for file in (root / folder).rglob("*") if file.is_file())
    left_over = {str(file.relative_to(root)) for file in owned} - wanted.keys()
    return sorted([*differing, *left_over])


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


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def main(argv: list[str] | None = None) -> int:
    """0: every file is current, after writing or before; 1: with `--check`, some are not."""
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
