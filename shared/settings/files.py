"""Configuration files: YAML, checked against a model, with an error that names the file and the field."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from shared.errors import SettingsError
from shared.settings.base import existing

Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path, model: type[Model], what: str) -> Model:
    """The file as `model`; raises `SettingsError` that names file, field and fault. `what`: the file, in the error."""
    try:
        content = yaml.load(existing(path, what).read_text("utf-8"), _Loader) or {}  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as broken:
        raise SettingsError(f"{path}: not readable as YAML: {' '.join(str(broken).split())}") from broken
    try:
        return model.model_validate(content)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "the file"
        said = "this setting does not exist" if first["type"] == "extra_forbidden" else first["msg"]
        said = said.removeprefix("Value error, ")
        raise SettingsError(f"{path}: {where}: {said}") from invalid


class _Loader(yaml.SafeLoader):
    """YAML without duplicate keys: the first of two would be ignored in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)
