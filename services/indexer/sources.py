"""`sources.yaml`: which part of the lake belongs to which tenant and collection, and who may read it.

    sources:
      - {container: handbook, prefix: "", tenant: larkfield, collection: handbook, groups: [employees, managers]}
      - {container: handbook, prefix: managers/, tenant: larkfield, collection: handbook, groups: [managers]}

The longest prefix wins; a blob under no prefix is not indexed. A prefix is a folder: it ends with a slash, so that
`hr/` does not cover `hrx/`.

A file must not get other readers because its path can be written in two ways. So these belong to no source, and are
not indexed, whatever the lake makes of them:

- a path with an empty step, a step `.` or `..`, a backslash, or what no name of a file can hold (`fault_of_path`);
- a path that belongs to one source as it is written and to another in the other case or Unicode form: beside the rule
  `hr/Secret/`, the folder `hr/secret/` is neither under that rule nor under `hr/`.
"""

import unicodedata
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from shared.access.use_cases import COLLECTION
from shared.settings.files import Section, read_yaml

_LONGEST_PATH = 1024  # characters of a blob's name
_CONTROLS = frozenset(map(chr, (*range(0x20), *range(0x7F, 0xA0))))


def fault_of_path(path: str) -> str | None:
    """Why `path` is not the one valid name of a blob; None if it is."""
    if not path.strip("/"):
        return "it is empty"
    if len(path) > _LONGEST_PATH:
        return f"it has more than {_LONGEST_PATH:,} characters"
    if not _CONTROLS.isdisjoint(path):
        return "it has a control character"
    if not path.isascii() and any("\ud800" <= letter <= "\udfff" for letter in path):
        return "it is not Unicode text"
    if "\\" in path:
        return "it has a backslash, which storage accounts and Windows read as a slash"
    steps = path.split("/")
    if "." in steps or ".." in steps:
        return "it has a step '.' or '..'"
    if "" in steps:
        return "it has an empty step: a slash at its start or end, or two in a row"
    return None


def _folder(prefix: str) -> str:
    fault = fault_of_path(prefix.removesuffix("/")) if prefix else None
    if fault:
        raise ValueError(f"{prefix!r} is not a folder: {fault}")
    if prefix and not prefix.endswith("/"):
        raise ValueError(f"write {prefix + '/'!r}: without the slash it would also cover {prefix + 'x/'!r}")
    return prefix


Name = Annotated[str, Field(min_length=1)]


class Source(Section):
    """A prefix of a container and whose it is."""

    container: Name
    prefix: Annotated[str, AfterValidator(_folder)] = ""
    tenant: Name
    collection: str = Field(pattern=COLLECTION)
    groups: tuple[Name, ...] = Field(min_length=1, description="who may read it; there is no 'everybody'")


class Sources(Section):
    """The lake's map."""

    sources: tuple[Source, ...] = ()

    @model_validator(mode="after")
    def _each_place_has_one_rule(self) -> Self:
        for one, other in combinations(self.sources, 2):
            if one.container == other.container and _folded(one.prefix) == _folded(other.prefix):
                where = f"{one.container}: {one.prefix!r} and {other.prefix!r}"
                raise ValueError(f"two sources for the same folder of {where}; give it one list of groups")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read `sources.yaml`; raises `SettingsError`."""
        return read_yaml(path, cls, "sources file")

    def of(self, container: str, path: str) -> Source | None:
        """The source of `path`; None when it has none, or another spelling of the path has another source."""
        if fault_of_path(path):
            return None
        mine = [source for source in self.sources if source.container == container]
        found = _longest(source for source in mine if path.startswith(source.prefix))
        folded = _folded(path)
        return found if found is _longest(s for s in mine if folded.startswith(_folded(s.prefix))) else None


def _longest(fitting: Iterator[Source]) -> Source | None:
    return max(fitting, key=lambda source: source.prefix.count("/"), default=None)


def _folded(path: str) -> str:
    """`path` as a file system compares it that knows neither case nor Unicode forms."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())
