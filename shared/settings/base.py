"""How every worker reads its settings: environment variables `RAGBUS_…`, checked before anything starts."""

import sys
from pathlib import Path
from typing import Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import SettingsError

PREFIX = "RAGBUS_"


class Settings(BaseSettings):
    """A frozen set of settings; `load` reports a wrong value in one line that names the variable."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    @classmethod
    def load(cls) -> Self:
        """Read the environment; raises `SettingsError` with one line that names the first wrong variable."""
        try:
            return cls()
        except ValidationError as invalid:
            first = invalid.errors(include_url=False, include_input=False)[0]
            name = "__".join(str(step) for step in first["loc"]).upper()
            said = first["msg"].removeprefix("Value error, ")
            if first["type"] == "missing":
                said = f"is not set; it {cls.model_fields[str(first['loc'][0])].description}"
            raise SettingsError(f"{PREFIX}{name}: {said}" if name else said) from invalid


def existing(path: Path, what: str, variable: str = f"{PREFIX}CONFIG") -> Path:
    """`path`, if it exists; raises `SettingsError` that names it, `what` it is, and the `variable` that leads there."""
    if not path.exists():
        raise SettingsError(f"{what} not found: {path} ({variable} leads there; set it to where the files are)")
    return path


def stop(error: SettingsError, worker: str) -> None:
    """Print the lines of `error` and exit with status 2."""
    sys.stderr.writelines(f"{worker}: {line}\n" for line in str(error).splitlines())
    raise SystemExit(2)
