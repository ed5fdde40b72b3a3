"""Differences between lake and index, as storage events: for the first import, lost events and changed rules.

The comparison is pure. Its events only name places: the indexer reads the lake itself, so an outdated comparison does
no harm.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from uuid import uuid4

from services.indexer.lakes.port import Blob, Lake
from services.indexer.parsing.formats import format_of
from services.indexer.sources import Sources
from services.indexer.version import VersionFactory
from shared.vectors.port import Document, Registry

# Distinguishes these events from the storage account's own, in logs.
API = "Reconcile"


class Difference(StrEnum):
    """How index and lake differ at one path."""

    MISSING = "missing"
    CHANGED = "changed"
    RULES = "rules"
    UNFINISHED = "unfinished"
    ORPHANED = "orphaned"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A path at which index and lake differ."""

    why: Difference
    container: str
    path: str


def compare(
    container: str, blobs: Iterable[Blob], entries: Iterable[Document], sources: Sources, versions: VersionFactory
) -> Iterator[Mismatch]:
    """The differences in one container, ordered by path. Blobs of unsupported types or without a source are ignored."""
    indexed: dict[str, list[Document]] = {}
    for entry in entries:
        indexed.setdefault(entry.path, []).append(entry)
    there = {blob.path: blob for blob in blobs}
    for path in sorted(there.keys() | indexed.keys()):
        why = _difference(container, path, there.get(path), indexed.get(path, []), sources, versions)
        if why is not None:
            yield Mismatch(why, container, path)


def _difference(
    container: str, path: str, blob: Blob | None, entries: list[Document], sources: Sources, versions: VersionFactory
) -> Difference | None:
    source = sources.of(container, path) if blob else None
    mine = [each for each in entries if source and (each.tenant, each.collection) == (source.tenant, source.collection)]
    if any(each.is_live for each in entries if each not in mine):
        return Difference.ORPHANED
    if any(not each.finished for each in entries):
        return Difference.UNFINISHED
    if source is None or blob is None or format_of(path, blob.content_type) is None:
        return None
    live = next((each for each in mine if each.is_live), None)
    if live is None:
        return Difference.MISSING
    if not versions.is_up_to_date(live, source):
        return Difference.RULES
    return Difference.CHANGED if live.etag != blob.etag else None


def event_of(finding: Mismatch, *, now: datetime, event_id: str) -> bytes:
    """A storage event (Event Grid schema) for the path, as the body of a message to `blob-events`."""
    event: Mapping[str, object] = {
        "id": event_id,
        "topic": "",
        "subject": f"/blobServices/default/containers/{finding.container}/blobs/{finding.path}",
        "eventType": f"Microsoft.Storage.Blob{'Deleted' if finding.why is Difference.ORPHANED else 'Created'}",
        "eventTime": now.isoformat(),
        "data": {"api": API, "clientRequestId": finding.why.value},
        "dataVersion": "",
        "metadataVersion": "1",
    }
    return json.dumps(event).encode()


class Reconciler:
    """Compares whole containers."""

    def __init__(self, *, lake: Lake, registry: Registry, sources: Sources, versions: VersionFactory) -> None:
        self._lake = lake
        self._registry = registry
        self._sources = sources
        self._versions = versions

    async def findings(self) -> list[Mismatch]:
        """Every difference, in all containers of the sources and the registry. Raises `TryLater`."""
        # The registry first, so that documents indexed meanwhile look up to date, not orphaned.
        indexed: dict[str, list[Document]] = {source.container: [] for source in self._sources.sources}
        async for entry in self._registry.entries():
            indexed.setdefault(entry.container, []).append(entry)
        found: list[Mismatch] = []
        for container, entries in indexed.items():
            blobs = [blob async for blob in self._lake.blobs(container)]
            found += compare(container, blobs, entries, self._sources, self._versions)
        return found

    async def events(
        self,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> list[bytes]:
        """One message body for `blob-events` per difference. Raises `TryLater`."""
        return [event_of(each, now=clock(), event_id=new_id()) for each in await self.findings()]
