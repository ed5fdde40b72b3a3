"""Configuration files: YAML, checked against a model, with an error that names the file and the field."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from shared.errors import SettingsError
from shared.settings.base import existing

Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path, model: type[Model], what: str) -> Model:
    """The file as `model`; raises `SettingsError` naming file, field and fault."""
    try:
        return model.model_validate(_parse(existing(path, what)))
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise SettingsError(f"{path}: {where}: {first['msg']}") from invalid


def _parse(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text("utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as broken:
        raise SettingsError(f"{path}: not readable as YAML: {broken}") from broken
