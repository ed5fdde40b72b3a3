"""Reads a message on `blob-events`: Event Grid's or CloudEvents' JSON into `BlobChanged`.

Only names are taken from an event, never an address: `data.url` is not fetched. The account and its containers come
from the settings.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridEvent

from services.indexer.sources import fault_of_path
from services.indexer.storage_event import BlobChanged, Change
from shared.contracts.base import read_json
from shared.errors import Reason, Unprocessable
from shared.telemetry.logs import get_logger

log = get_logger()

# /blobServices/default/containers/{container}/blobs/{path}; the path is written as it is, not percent-encoded.
_SUBJECT = re.compile(r"/blobServices/default/containers/(?P<container>[^/]+)/blobs/(?P<path>.+)", re.DOTALL)
_CONTAINER = re.compile(r"[a-z0-9$](?:[a-z0-9-]{1,61})[a-z0-9]")
# Parts of names that an earlier release accepted: empty steps, backslashes, and controls above ASCII.
_ONCE_INDEXED = re.compile(r"[/\\\x7f-\x9f]+")
_CHANGES = {
    "Microsoft.Storage.BlobCreated": Change.WRITTEN,
    "Microsoft.Storage.BlobDeleted": Change.DELETED,
    "Microsoft.Storage.BlobRenamed": Change.RENAMED,
    "Microsoft.Storage.DirectoryRenamed": Change.DIRECTORY_RENAMED,
    "Microsoft.Storage.DirectoryDeleted": Change.DIRECTORY_DELETED,
}
# The file exists, but is empty; the event that closes it follows (FlushWithClose, SftpCommit).
_JUST_OPENED = {"CreateFile", "SftpCreate"}


def read_events(body: bytes) -> tuple[BlobChanged, ...]:
    """The changes in a message; empty for other kinds of events.

    Raises `Unprocessable`: `SchemaInvalid` when the body is not a storage event or names a path that cannot be indexed,
    `PoisonContent` when it cannot be read as JSON (`read_json`).

    Azure sends one event per message; its documentation shows lists, so a list is read too.
    """
    value = read_json(body)
    changes: list[BlobChanged] = []
    for event in value if isinstance(value, list) else [value]:
        changes += _changes(event)
    return tuple(changes)


def _changes(event: object) -> list[BlobChanged]:
    if not isinstance(event, dict):
        raise _invalid("the body is neither an event nor a list of events; send Event Grid or CloudEvents JSON")
    parsed: CloudEvent[Any] | EventGridEvent
    try:
        # Tell the schemas apart first: EventGridEvent reads a CloudEvent without an error, and finds nothing in it.
        if "specversion" in event:
            parsed = CloudEvent.from_dict(event)
            kind, time = _text(parsed.type), event.get("time")
        else:
            parsed = EventGridEvent.from_dict(event)
            kind, time = _text(parsed.event_type), event.get("eventTime")
    except Exception as broken:
        # Both types of the SDK raise whatever their deserializers meet.
        raise _invalid(f"not an event: {type(broken).__name__}") from broken
    data: Mapping[str, Any] = parsed.data if isinstance(parsed.data, dict) else {}
    if not kind:
        raise _invalid("it has no event type")
    change = _CHANGES.get(kind, Change.IGNORED)
    api = _text(data.get("api"))
    # The documentation shows the string "true"; without it the deleted directory was empty.
    is_recursive = str(data.get("recursive", "")).lower() == "true"
    if api in _JUST_OPENED or (change is Change.DIRECTORY_DELETED and not is_recursive):
        change = Change.IGNORED
    if change is Change.IGNORED:
        log.info("event.ignored", kind=kind[:100], detail=api[:50])
        return []
    subject = _text(parsed.subject)
    found = _SUBJECT.fullmatch(subject)
    if found is None:
        raise _invalid(f"its subject does not name a blob: {subject[:200]!r}")
    is_gone = change in (Change.DELETED, Change.DIRECTORY_DELETED)
    container, path = _checked(found["container"], found["path"], is_gone=is_gone)
    first = BlobChanged(change=change, container=container, path=path, occurred_at=_time(time))
    if change not in (Change.RENAMED, Change.DIRECTORY_RENAMED):
        return [first]
    old_container, old_path = _source(_text(data.get("sourceUrl")), container)
    if old_container == container:
        return [replace(first, previous_path=old_path)]
    # In another container, so it is an event of its own.
    gone = Change.DELETED if change is Change.RENAMED else Change.DIRECTORY_DELETED
    return [first, replace(first, change=gone, container=old_container, path=old_path)]


def _source(url: str, container: str) -> tuple[str, str]:
    """Container and path in `sourceUrl`, which is percent-encoded once; raises `Unprocessable`.

    Emulators put the account before `container`.
    """
    try:
        segments = [unquote(segment) for segment in urlsplit(url).path.split("/")[1:]]
    except ValueError as broken:
        raise _invalid(f"the rename's sourceUrl is not a URL: {url[:200]!r}") from broken
    if len(segments) > 2 and segments[0] != container and segments[1] == container:
        segments = segments[1:]
    if len(segments) < 2:
        raise _invalid("the rename has no sourceUrl with a container and a path")
    return _checked(segments[0], "/".join(segments[1:]), is_gone=True)


def _checked(container: str, path: str, *, is_gone: bool) -> tuple[str, str]:
    """Container and path; raises `Unprocessable` for an invalid name, or a second name of a blob.

    `is_gone`: the blob was deleted. It may have such a name, because an earlier release indexed it, and must leave the
    index.
    """
    if not _CONTAINER.fullmatch(container):
        raise _invalid(f"not a container name: {container[:80]!r}")
    name = path.removesuffix("/")  # of a directory, as some write it
    fault = fault_of_path(_ONCE_INDEXED.sub("/", name).strip("/") if is_gone else name)
    if fault:
        raise Unprocessable(Reason.SCHEMA_INVALID, f"{path[:80]!r} cannot be indexed: {fault}; give it another path")
    return container, name


def _time(value: object) -> datetime | None:
    """An ISO 8601 time, in UTC unless it says otherwise; None for anything else."""
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _invalid(what: str) -> Unprocessable:
    return Unprocessable(Reason.SCHEMA_INVALID, f"not a storage event: {what}")
