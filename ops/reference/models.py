"""`models.md`: the keys of models.yaml from the model's own descriptions, the dialects, and blocks to copy."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import PurePath
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ops.reference.settings import type_name
from ops.reference.text import NOTICE, Files, markdown, table
from shared.llm.deployments import ONLY, OUR_BODY, OUR_HEADERS, Deployment, Deployments, Price, Timeouts
from shared.llm.dialect import DEFAULTS, PRESETS, Dialect

PAGE, SCHEMA = "docs/reference/models.md", "docs/reference/models.schema.json"
FOLDER = "examples/models"

# What stands before the block of a file in examples/models: title, and what to know.
BLOCKS: Mapping[str, tuple[str, str]] = {
    "azure-v1": (
        "Azure OpenAI, v1 API",
        "The address is `https://NAME.openai.azure.com/openai/v1/`, without a version. `model` is the name that you "
        "gave to the deployment. Without `key_env` the worker's own identity is used (it needs the role *Cognitive "
        "Services OpenAI User*). Microsoft: [v1 API](https://learn.microsoft.com/azure/foundry/openai/"
        "api-version-lifecycle), [reasoning models](https://learn.microsoft.com/azure/ai-foundry/openai/how-to/"
        "reasoning): these take `max_completion_tokens` only, and neither temperature nor top_p.",
    ),
    "azure-dated": (
        "Azure OpenAI, API with dates",
        "The address is `https://NAME.openai.azure.com/openai/deployments/MODEL/…?api-version=DATE`. Reasoning models "
        "want a newer date than the one here, or `v1`. Microsoft: [reference](https://learn.microsoft.com/azure/"
        "ai-services/openai/reference).",
    ),
    "openai": (
        "OpenAI",
        "Of a reasoning model, `max_completion_tokens` counts what it thinks as well: `reasoning_tokens` is added to "
        "the use case's `answer_tokens`. OpenAI: [chat](https://platform.openai.com/docs/api-reference/chat/create), "
        "[embeddings](https://platform.openai.com/docs/api-reference/embeddings/create).",
    ),
    "vllm": (
        "vLLM",
        "vLLM's own parameters go into `body`. It refuses `dimensions` unless the model has Matryoshka vectors (then "
        "`send_dimensions: true`). vLLM: [OpenAI-compatible server](https://docs.vllm.ai/en/stable/serving/"
        "openai_compatible_server/).",
    ),
    "ollama": (
        "Ollama",
        "The protocol cannot set the size of the context: give `context_window` what the server has. Ollama: [OpenAI "
        "compatibility](https://docs.ollama.com/api/openai-compatibility), [context length](https://docs.ollama.com/"
        "context-length).",
    ),
    "llamacpp": (
        "llama.cpp",
        "llama.cpp: [server](https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md). What was run "
        "against it: [run your own models](../how-to/self-hosted.md).",
    ),
}


def files(blocks: Mapping[str, str]) -> Files:
    """The page and the schema; `blocks`: the texts of `examples/models`, by path."""
    texts = {PurePath(path).stem: text for path, text in blocks.items()}
    if texts.keys() != BLOCKS.keys():
        raise ValueError(f"{FOLDER} has {sorted(texts)}, and {sorted(BLOCKS)} are described")
    shown = [f"### {title}\n\n{said}\n\n```yaml\n{texts[name].strip()}\n```" for name, (title, said) in BLOCKS.items()]
    page = markdown(
        "models.yaml",
        "The deployments of models that may be called. A wrong file stops a worker, and `ragbus doctor` says the same: "
        "every finding with file, line and key, all at once. A key that has no effect is an error, too. Editors check "
        "the file as you type with `# yaml-language-server: $schema=models.schema.json` "
        "([schema](models.schema.json)).",
        "## Blocks to copy\n\nPrices, quotas and windows are examples: write yours. A test sends a request for each "
        "block and compares it with the provider's page.",
        *shown,
        "## Keys of a deployment",
        _keys(Deployment),
        "`price`:\n\n" + _keys(Price),
        "`timeouts`, in seconds:\n\n" + _keys(Timeouts),
        "## Dialects",
        "What a request contains. The default is "
        + ", ".join(f"`{preset}` for `provider: {provider}`" for provider, preset in DEFAULTS.items())
        + "; each part has a key above that overrides it.",
        _dialects(),
        "**A server that refuses a parameter** by name (400, 404 or 422) teaches it to the process: the call is sent "
        "once more without it, and the warning `model.parameter_refused` says which line to write. Write it: every "
        "process learns anew, at the price of one refused call for each parameter. What stands in `body` is never left "
        "out.",
        "**In `headers` these are refused**: " + _refused(OUR_HEADERS) + ". **In `body`**: " + _refused(OUR_BODY) + ".",
    )
    return {PAGE: page, SCHEMA: json.dumps(_schema(), indent=2) + "\n"}


def _keys(model: type[BaseModel]) -> str:
    rows = [
        (f"`{name}`", _type(field.annotation), _default(field), _of(name), field.description or "")
        for name, field in model.model_fields.items()
    ]
    if model is Deployment:
        return table(("key", "type", "default", "of", "meaning"), rows)
    return table(("key", "type", "default", "meaning"), [(*row[:3], row[4]) for row in rows])


def _of(name: str) -> str:
    if name == "api_version":
        return "azure"
    return next((kind for kind, names in ONLY.items() if name in names), "all")


def _type(annotation: Any) -> str:
    of_one = [each for each in get_args(annotation) if each is not type(None)]
    if get_origin(annotation) is dict:
        return "mapping"
    if len(of_one) == 1:
        return _type(of_one[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping, see below"
    return type_name(annotation)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    return "" if value is None or isinstance(value, BaseModel | dict) else f"`{str(value).lower()}`"


def _dialects() -> str:
    names = [each.name for each in fields(Dialect)]
    rows = [(f"`{preset}`", *(_part(getattr(dialect, name)) for name in names)) for preset, dialect in PRESETS.items()]
    return table(("dialect", *(f"`{name}`" for name in names)), rows)


def _part(value: Any) -> str:
    return "not sent" if value is None else f"`{str(value).lower()}`"


def _refused(whys: Mapping[str, str]) -> str:
    by_why: dict[str, list[str]] = {}
    for name, why in whys.items():
        by_why.setdefault(why, []).append(f"`{name}`")
    return "; ".join(f"{', '.join(names)} ({why})" for why, names in by_why.items())


def _schema() -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": NOTICE,
        **Deployments.model_json_schema(),
    }
