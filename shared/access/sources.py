"""`sources.yaml`: which part of the lake belongs to which tenant and collection, and who may read it.

    sources:
      - {container: handbook, prefix: "", tenant: larkfield, collection: handbook, groups: [employees, managers]}
      - {container: handbook, prefix: managers/, tenant: larkfield, collection: handbook, groups: [managers]}

The longest prefix wins; a blob under no prefix is nobody's and is not indexed.
"""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from shared.settings.files import read_yaml


class Source(BaseModel):
    """A prefix of a container and whose it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    container: str
    prefix: str = ""
    tenant: str = Field(min_length=1)
    collection: str = Field(min_length=1)
    groups: tuple[str, ...] = Field(min_length=1, description="who may read it; there is no 'everybody'")


class Sources(BaseModel):
    """The lake's map."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[Source, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read `sources.yaml`; raises `SettingsError`."""
        return read_yaml(path, cls, "sources file")

    def of(self, container: str, path: str) -> Source | None:
        """The source that `path` belongs to."""
        fitting = [s for s in self.sources if s.container == container and path.startswith(s.prefix)]
        return max(fitting, key=lambda source: len(source.prefix), default=None)
