"""What a message on `blob-events` says: Event Grid's or CloudEvents' JSON into `BlobChanged`.

Only names are taken from an event, never an address: `data.url` is not fetched, whatever it says. Which
account and which containers there are, the settings know.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
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
# What an earlier version took for a part of a name: empty steps, backslashes, and controls above ASCII.
_ONCE_INDEXED = re.compile(r"[/\\\x7f-\x9f]+")
_STORAGE = "Microsoft.Storage."
_CHANGES = {
    "BlobCreated": Change.WRITTEN,
    "BlobDeleted": Change.DELETED,
    "BlobRenamed": Change.RENAMED,
    "DirectoryRenamed": Change.DIRECTORY_RENAMED,
    "DirectoryDeleted": Change.DIRECTORY_DELETED,
}
# The file is there, but empty: the event that closes it follows (FlushWithClose, SftpCommit).
_JUST_OPENED = {"CreateFile", "SftpCreate"}


@dataclass(frozen=True, slots=True)
class _Event:
    """An event of either schema."""

    type: str
    subject: str
    time: object
    data: Mapping[str, Any]


def read_events(body: bytes) -> tuple[BlobChanged, ...]:
    """The changes that a message tells; raises `Unprocessable` for what is no storage event.

    Azure sends one event a message; its documentation prints lists, so a list is read too.
    """
    value = read_json(body)
    events = value if isinstance(value, list) else [value]
    return tuple(change for event in events for change in _changes(_parsed(event)))


def _parsed(event: object) -> _Event:
    if not isinstance(event, dict):
        raise _invalid("the body is neither an event nor a list of events")
    try:
        # First of all which schema: EventGridEvent reads a CloudEvent without complaint, into nothing.
        return _cloud_event(event) if "specversion" in event else _event_grid(event)
    except Unprocessable:
        raise
    except Exception as broken:
        # Both SDK types raise whatever their deserializers trip over.
        raise _invalid(f"not an event: {type(broken).__name__}") from broken


def _cloud_event(event: dict[str, Any]) -> _Event:
    read: CloudEvent[Any] = CloudEvent.from_dict(event)
    return _Event(_text(read.type), _text(read.subject), event.get("time"), _fields(read.data))


def _event_grid(event: dict[str, Any]) -> _Event:
    read = EventGridEvent.from_dict(event)
    return _Event(_text(read.event_type), _text(read.subject), event.get("eventTime"), _fields(read.data))


def _changes(event: _Event) -> list[BlobChanged]:
    if not event.type:
        raise _invalid("it has no type")
    name = event.type.removeprefix(_STORAGE)
    change = _CHANGES.get(name, Change.IGNORED) if event.type.startswith(_STORAGE) else Change.IGNORED
    api = _text(event.data.get("api"))
    if api in _JUST_OPENED or (change is Change.DIRECTORY_DELETED and not _is_recursive(event.data)):
        change = Change.IGNORED
    if change is Change.IGNORED:
        log.info("event.ignored", kind=event.type[:100], detail=api[:50])
        return []
    container, path = _place(event.subject, is_gone=change in (Change.DELETED, Change.DIRECTORY_DELETED))
    first = BlobChanged(
        change=change,
        container=container,
        path=path,
        occurred_at=_time(event.time),
    )
    return _with_source(first, event.data)


def _with_source(moved: BlobChanged, data: Mapping[str, Any]) -> list[BlobChanged]:
    """A rename also names where the blob was; in another container that is an event of its own."""
    if moved.change not in (Change.RENAMED, Change.DIRECTORY_RENAMED):
        return [moved]
    container, path = _source(_text(data.get("sourceUrl")), moved.container)
    if container == moved.container:
        return [moved.model_copy(update={"previous_path": path})]
    gone = Change.DELETED if moved.change is Change.RENAMED else Change.DIRECTORY_DELETED
    return [moved, moved.model_copy(update={"change": gone, "container": container, "path": path})]


def _place(subject: str, *, is_gone: bool) -> tuple[str, str]:
    found = _SUBJECT.fullmatch(subject)
    if found is None:
        raise _invalid(f"its subject names no blob: {subject[:200]!r}")
    return _checked(found["container"], found["path"], is_gone=is_gone)


def _source(url: str, container: str) -> tuple[str, str]:
    """The container and the path in `sourceUrl`, which is percent-encoded, once. Emulators put the account first."""
    try:
        segments = [unquote(segment) for segment in urlsplit(url).path.split("/")[1:]]
    except ValueError as broken:
        raise _invalid(f"a rename from what is no address: {url[:200]!r}") from broken
    if len(segments) > 2 and segments[0] != container and segments[1] == container:
        segments = segments[1:]
    if len(segments) < 2:
        raise _invalid("a rename without the place it came from (sourceUrl)")
    return _checked(segments[0], "/".join(segments[1:]), is_gone=True)


def _checked(container: str, path: str, *, is_gone: bool) -> tuple[str, str]:
    """Refuse what is no name, and second names of a blob. One that is gone may have had such a name when it was indexed
    by an earlier version, which refused less, and must leave the index."""
    if not _CONTAINER.fullmatch(container):
        raise _invalid(f"not a container's name: {container[:80]!r}")
    name = path.removesuffix("/")  # of a directory, as some write it
    fault = fault_of_path(_ONCE_INDEXED.sub("/", name).strip("/") if is_gone else name)
    if fault:
        raise Unprocessable(Reason.SCHEMA_INVALID, f"{path[:80]!r} cannot be indexed: {fault}; give it another path")
    return container, name


def _is_recursive(data: Mapping[str, Any]) -> bool:
    # The documentation shows the string "true"; without it the directory was empty.
    return str(data.get("recursive", "")).lower() == "true"


def _time(value: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _fields(data: object) -> Mapping[str, Any]:
    return data if isinstance(data, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _invalid(what: str) -> Unprocessable:
    return Unprocessable(Reason.SCHEMA_INVALID, f"not a storage event: {what}")
