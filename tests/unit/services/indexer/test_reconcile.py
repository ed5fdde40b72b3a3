"""Reconcile finds the differences of lake and index; its events make the index match."""

import json

import pytest

from services.indexer.chunk import Chunk
from services.indexer.events import read_events
from services.indexer.lakes.port import Blob
from services.indexer.reconcile import Difference, Mismatch, Reconciler, compare, event_of
from services.indexer.sources import Sources
from services.indexer.storage_event import Change
from tests.support.indexer import MANAGERS, NOON, SOURCES, World, changed


def reconciler(world: World, sources: Sources = SOURCES, pipeline: str = "p1") -> Reconciler:
    return Reconciler(lake=world.lake, registry=world.registry, sources=sources, versions=world.versions(pipeline))


async def differences(world: World, sources: Sources = SOURCES, pipeline: str = "p1") -> dict[str, Difference]:
    return {finding.path: finding.why for finding in await reconciler(world, sources, pipeline).findings()}


async def indexed(*paths: str) -> World:
    world = World()
    for path in paths:
        world.lake.put(path, f"# {path}\n\nText of {path}.")
        await world.indexer().handle([changed(path)])
    return world


async def test_an_index_that_matches_the_lake_needs_no_events() -> None:
    world = await indexed("a.md", "managers/b.md")
    assert await differences(world) == {}


async def test_every_difference_is_found_and_named() -> None:
    world = await indexed("same.md", "edited.md", "deleted.md")
    world.lake.put("edited.md", "# Edited\n\nOther words.")
    world.lake.delete("deleted.md")
    world.lake.put("new.md", "# New")
    world.lake.put("picture.png", b"\x89PNG")
    assert await differences(world) == {
        "deleted.md": Difference.ORPHANED,
        "edited.md": Difference.CHANGED,
        "new.md": Difference.MISSING,
    }


async def test_changed_rules_make_their_documents_stale() -> None:
    world = await indexed("a.md", "managers/b.md")
    assert await differences(world, pipeline="p2") == {"a.md": Difference.RULES, "managers/b.md": Difference.RULES}
    assert await differences(world, Sources(sources=(MANAGERS,))) == {"a.md": Difference.ORPHANED}
    opened = MANAGERS.model_copy(update={"groups": ("managers", "employees")})
    assert await differences(world, Sources(sources=(SOURCES.sources[0], opened))) == {
        "managers/b.md": Difference.RULES
    }


async def test_a_container_that_no_source_names_is_emptied() -> None:
    world = await indexed("a.md")
    moved = Sources(sources=(SOURCES.sources[0].model_copy(update={"container": "elsewhere"}),))
    assert await differences(world, moved) == {"a.md": Difference.ORPHANED}


async def test_what_a_crash_left_unfinished_is_finished() -> None:
    world = await indexed("a.md")
    world.lake.delete("a.md")
    world.evictions.fails, world.evictions.fails_after = KeyError("a crash"), len(world.evictions.calls) + 1
    with pytest.raises(KeyError):
        await world.indexer().handle([changed("a.md")])
    assert await differences(world) == {"a.md": Difference.UNFINISHED}


async def test_its_events_make_the_index_match_the_lake() -> None:
    world = await indexed("same.md", "edited.md", "deleted.md")
    world.lake.put("edited.md", "# Edited\n\nOther words.")
    world.lake.delete("deleted.md")
    world.lake.put("new äöü %20.md", "# New\n\nNew words.")
    for body in await reconciler(world).events():
        await world.indexer().handle(read_events(body))
    assert await differences(world) == {}
    assert {each.path for each in await world.found()} == {"same.md", "edited.md", "new äöü %20.md"}


def test_an_event_names_its_sender_and_reason() -> None:
    body = event_of(Mismatch(Difference.ORPHANED, "handbook", "a.md"), now=NOON, event_id="7")
    [change] = read_events(body)
    assert change.change is Change.DELETED
    event = json.loads(body)
    assert (event["id"], event["data"]) == ("7", {"api": "Reconcile", "clientRequestId": "orphaned"})


def test_findings_are_ordered_by_path() -> None:
    blobs = [Blob(path, '"1"', 1) for path in ("b.md", "a.md", "c.md")]
    found = compare("handbook", blobs, [], SOURCES, World().versions())
    assert [finding.path for finding in found] == ["a.md", "b.md", "c.md"]


@pytest.mark.parametrize("path", ["managers//b.md", "/managers/b.md", "managers\\b.md", "Managers/b.md", "link.md"])
async def test_what_was_indexed_under_a_second_name_is_removed(path: str) -> None:
    """As an earlier version did it: under the wider rule, for a file that has another name."""
    world = await indexed("managers/b.md", "a.md")
    employees = SOURCES.sources[0]
    old, passages = world.versions().version(
        employees, Blob(path, '"1"', 5), "hash", "B", [Chunk("", None, 0, 6, "secret", 1)], None
    )
    assert await world.writer().write(old, passages, before=None)
    assert "secret" in await world.texts()
    if path == "Managers/b.md":
        world.lake.put(path, "secret")  # a blob of its own, whose rule is not certain
    assert await differences(world) == {path: Difference.ORPHANED}
    for body in await reconciler(world).events():
        await world.indexer().handle(read_events(body))
    assert await differences(world) == {}
    assert "secret" not in await world.texts()
    entry = await world.entry(path)
    assert entry
    assert not entry.is_live
