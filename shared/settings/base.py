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
        """Read the environment; raises `SettingsError`."""
        try:
            return cls()
        except ValidationError as invalid:
            raise SettingsError(_first_wrong(invalid, cls)) from invalid


def _first_wrong(invalid: ValidationError, settings: type[Settings]) -> str:
    error = invalid.errors(include_url=False, include_input=False)[0]
    where = "__".join(str(step) for step in error["loc"]).upper()
    said = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        said = f"is not set; it {settings.model_fields[str(error['loc'][0])].description}"
    return f"{PREFIX}{where}: {said}" if where else said


def existing(path: Path, what: str) -> Path:
    """`path`, if it exists; raises `SettingsError` that names the missing file."""
    if not path.exists():
        raise SettingsError(f"{what} not found: {path} (set the variable to its location)")
    return path


def stop(error: SettingsError, worker: str) -> None:
    """Print in one line what is wrong and exit with status 2."""
    sys.stderr.write(f"{worker}: {error}\n")
    raise SystemExit(2)
