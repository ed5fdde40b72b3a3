"""Whether the files of a configuration are consistent. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ops.findings import Finding, Level
from services.generator.planner import Need, plan, why_none
from services.indexer.sources import Sources
from shared.access.callers import Callers
from shared.access.limits import Limits
from shared.access.use_cases import UseCase
from shared.llm.deployments import Deployments, ModelKind
from shared.settings.budget import Unit

_WHAT = "configuration"


@dataclass(frozen=True, slots=True)
class Configuration:
    """All files of a configuration folder."""

    callers: Callers
    use_cases: Mapping[str, UseCase]
    sources: Sources
    models: Deployments
    embeddings: str
    """The name of the embedding deployment."""


def contradictions(config: Configuration) -> Iterator[Finding]:
    """Contradictions between the files; with a FAIL, every ask fails."""
    for use_case in config.use_cases.values():
        yield from _answerable(use_case, config)
    yield from _readers(config)
    yield from _documents(config)


def _answerable(use_case: UseCase, config: Configuration) -> Iterator[Finding]:
    need = Need(fixed=use_case.question_tokens, passages=0, answer=use_case.answer_tokens)
    deployments = config.models.deployments
    if not plan(use_case, deployments, need):
        said = f"no deployment may answer, so every ask fails: {why_none(use_case, deployments, need)}"
        yield Finding(Level.FAIL, _WHAT, said, f"correct use_cases/ ({use_case.name}) or models.yaml")
    if not any(source.collection == use_case.collection for source in config.sources.sources):
        said = f"use case {use_case.name}: sources.yaml has no source for its collection {use_case.collection}"
        yield Finding(Level.FAIL, _WHAT, said, "add a source, or use a collection that has one")
    embeds = next((each for each in deployments if each.name == config.embeddings), None)
    if embeds is None or embeds.kind is not ModelKind.EMBEDDING:
        said = f"models.yaml has no embedding deployment {config.embeddings!r}"
        yield Finding(Level.FAIL, _WHAT, said, "add it, or correct RAGBUS_EMBEDDING_DEPLOYMENT")
    elif use_case.regions and embeds.region not in use_case.regions:
        regions = ", ".join(use_case.regions)
        said = f"use case {use_case.name} allows {regions}, but its questions are embedded in {embeds.region}"
        yield Finding(Level.WARN, _WHAT, said, f"embed in one of its regions ({embeds.name} in models.yaml)")


def _readers(config: Configuration) -> Iterator[Finding]:
    """Whether callers can ask and read."""
    limits = Limits(config.callers, config.use_cases)
    for caller in config.callers.callers:
        for use_case in (config.use_cases[name] for name in caller.use_cases if name in config.use_cases):
            for limit in limits.named(caller.tenant, use_case.name, caller.name):
                if limit.unit is Unit.TOKENS and limit.most < use_case.context_window:
                    whose = " ".join((limit.scope if ":" in limit.scope else f"tenant:{caller.tenant}").split(":", 1))
                    said = (
                        f"{whose} has {limit.most} tokens per {limit.window}, but a "
                        f"call of use case {use_case.name} may use {use_case.context_window}, so asks of {caller.name} "
                        "are refused"
                    )
                    yield Finding(Level.FAIL, _WHAT, said, "raise that budget, or lower context_window")
            fed = [source for source in config.sources.sources if source.collection == use_case.collection]
            if fed and not any(
                source.tenant == caller.tenant and set(source.groups) & set(caller.groups) for source in fed
            ):
                said = f"caller {caller.name} may read no source of {use_case.collection}, so its asks end in no_answer"
                yield Finding(Level.WARN, _WHAT, said, "give it a group of one of the sources in sources.yaml")
    used = {name for caller in config.callers.callers for name in caller.use_cases}
    for name in config.use_cases.keys() - used:
        yield Finding(Level.WARN, _WHAT, f"use case {name}: no caller may use it", "add it to a caller in callers.yaml")


def _documents(config: Configuration) -> Iterator[Finding]:
    """Whether callers reach the documents of each source."""
    collections = {use_case.collection for use_case in config.use_cases.values()}
    for source in config.sources.sources:
        where = f"source {source.container}/{source.prefix}"
        if source.tenant not in config.callers.tenants:
            said = f"{where}: callers.yaml has no tenant {source.tenant}, so no caller reads its documents"
            yield Finding(Level.FAIL, _WHAT, said, f"use one of: {', '.join(config.callers.tenants)}")
            continue
        held = {group for each in config.callers.callers if each.tenant == source.tenant for group in each.groups}
        for group in source.groups:
            if group not in held:
                said = f"{where}: no caller of {source.tenant} has the group {group}"
                yield Finding(Level.WARN, _WHAT, said, f"correct it; callers have: {', '.join(sorted(held)) or 'none'}")
        if source.collection not in collections:
            said = f"{where}: no use case reads the collection {source.collection}"
            yield Finding(Level.WARN, _WHAT, said, f"use cases read: {', '.join(sorted(collections))}")
