"""`ragbus index`: documents in the lake and in the index, and the differences."""

import asyncio
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ops import console
from ops.connect import bus
from ops.errors import CommandError
from ops.registry import documents
from ops.target import Target
from services.indexer.sources import fault_of_path
from shared.bus.port import Outgoing
from shared.contracts.queues import BLOB_EVENTS
from shared.errors import SettingsError, TryLater

if TYPE_CHECKING:
    from rich.table import Table

    from services.indexer.reconcile import Mismatch
    from shared.vectors.port import Document


def put(target: Target, files: Sequence[Path], folder: str) -> None:
    """Copy `files` into the lake, whose events make the indexer read them; raises `CommandError`."""
    lake = lake_of(target)
    for file in files:
        if not file.is_file():
            raise CommandError(f"{file} is not a file")
        name = (PurePosixPath(folder) / file.name).as_posix()
        copy = within(lake, name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        # Under a hidden name first, so that the watcher never reports half a file.
        half = copy.with_name(f".{copy.name}.part")
        shutil.copyfile(file, half)
        half.replace(copy)
        console.out().print(f"{name} is in the lake; `ragbus index status` shows when it is indexed", markup=False)


def remove(target: Target, paths: Sequence[str]) -> None:
    """Remove documents from the lake, whose events make the indexer drop them; raises `CommandError`."""
    lake = lake_of(target)
    for path in paths:
        file = within(lake, path)
        if not file.is_file():
            raise CommandError(f"the lake has no {path}; list the indexed documents with `ragbus index status`")
        file.unlink()
        console.out().print(f"{path} was removed from the lake", markup=False)


def status(target: Target, *, as_json: bool) -> None:
    """Print the registry; raises `CommandError`."""
    known = asyncio.run(documents(target))
    if as_json:
        console.print_json([{**asdict(document), "groups": sorted(document.groups)} for document in known])
    elif known:
        console.out().print(_table(known, datetime.now(UTC)))
    else:
        console.out().print("nothing is indexed; `ragbus index reconcile` sends an event for each document in the lake")


def reconcile(target: Target, *, dry_run: bool) -> None:
    """Print the differences between lake and index, and send their events; raises `CommandError`."""
    found = asyncio.run(reconciled(target, dry_run=dry_run))
    for finding in found:
        console.out().print(f"{finding.why:<10} {console.harmless(finding.path)}", markup=False)
    if not found:
        console.out().print("the index matches the lake")
    else:
        console.err(f"{console.count(len(found), 'event')} {'would be ' if dry_run else ''}sent to blob-events")


async def reconciled(target: Target, *, dry_run: bool = False) -> "list[Mismatch]":
    """The differences between lake and index, after sending their events; raises `CommandError`."""
    from services.indexer.build import build_reconciler
    from services.indexer.reconcile import event_of
    from services.indexer.settings import IndexerSettings

    os.environ.update(target.variables)
    try:
        async with build_reconciler(IndexerSettings.load()) as reconciler:
            found = await reconciler.findings()
    except SettingsError as wrong:
        raise CommandError(str(wrong)) from wrong
    except TryLater as unavailable:
        raise CommandError(f"{unavailable}; run `ragbus doctor`") from unavailable
    if found and not dry_run:
        async with bus(target) as connected:
            for finding in found:
                event_id = str(uuid4())
                body = event_of(finding, now=datetime.now(UTC), event_id=event_id)
                await connected.send(Outgoing(BLOB_EVENTS, body, subject="", message_id=event_id))
    return found


def lake_of(target: Target) -> Path:
    """The folder of the lake; raises `CommandError` when the lake is a storage account."""
    folder = target.variables.get("RAGBUS_LAKE_FOLDER")
    if folder is None:
        raise CommandError(
            "the lake is a storage account: upload to its container (`az storage blob upload`), which sends the event"
        )
    if not Path(folder).is_dir():
        raise CommandError(f"RAGBUS_LAKE_FOLDER: {folder} is not a folder")
    return Path(folder).resolve()


def within(lake: Path, path: str) -> Path:
    """The file for a document's path; raises `CommandError` for one outside the lake or a second name of a file."""
    file = (lake / path).resolve()
    if not file.is_relative_to(lake) or file == lake:
        raise CommandError(f"{path} is not a path inside the lake")
    name = file.relative_to(lake).as_posix()
    if PurePosixPath(path).as_posix() != name:
        raise CommandError(f"{path} is another name of {name} (by a link or `..`); use that one")
    if fault := fault_of_path(name):
        raise CommandError(f"{path} cannot be indexed: {fault}")
    return file


def _table(known: "Sequence[Document]", now: datetime) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("document", "state", box=None, header_style="bold", pad_edge=False)
    for name in ("version", "passages", "age"):
        table.add_column(name, justify="right")
    table.add_column("readers")
    for document in known:
        cells: tuple[Any, ...] = (document.version, document.passages, age(now - document.updated_at))
        state = str(document.state) if document.finished else f"{document.state}, finishing"
        readers = ", ".join(sorted(document.groups))
        table.add_row(Text(console.harmless(document.path)), state, *(str(cell) for cell in cells), readers)
    return table


def age(since: Any) -> str:
    """A duration in its largest sensible unit."""
    seconds = max(0, int(since.total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
