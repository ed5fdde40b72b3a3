"""Whether the files in the configuration folder are valid and consistent."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ops import console
from ops.connect import callers
from ops.findings import Finding, Level
from ops.target import Target

if TYPE_CHECKING:
    from shared.access.use_cases import UseCase


def configuration(at: Target) -> Iterator[Finding]:
    """Whether the files in the configuration folder are valid and consistent."""
    from ops.checks.consistency import Configuration, contradictions
    from services.gateway.main import check_deadlines, check_rights
    from services.gateway.settings import GatewaySettings
    from services.indexer.sources import Sources
    from shared.access.use_cases import read_use_cases
    from shared.errors import SettingsError
    from shared.llm.deployments import Deployments

    try:
        known, use_cases = callers(at), read_use_cases(at.config / "use_cases")
        sources = Sources.read(at.config / "sources.yaml")
        models = Deployments.read(at.config / "models.yaml")
        check_rights(known, use_cases)
        check_deadlines(use_cases, GatewaySettings.load())
    except SettingsError as wrong:
        for said in str(wrong).splitlines():
            of_a_variable = said.startswith("RAGBUS_")
            fix = "correct the variable" if of_a_variable else "correct the file (or RAGBUS_CONFIG)"
            yield Finding(Level.FAIL, "configuration", said, fix)
    else:
        embeddings = at.variables.get("RAGBUS_EMBEDDING_DEPLOYMENT", "embeddings")
        found = [
            *unknown_deployments(use_cases.values(), [each.name for each in models.chats()]),
            *contradictions(Configuration(known, use_cases, sources, models, embeddings)),
        ]
        yield from found
        if not found:
            there = f"{console.count(len(known.callers), 'caller')}, {console.count(len(use_cases), 'use case')}"
            yield Finding(Level.OK, "configuration", f"{at.config}: {there}")


def unknown_deployments(use_cases: "Iterable[UseCase]", chats: Sequence[str]) -> Iterator[Finding]:
    """Deployments of use cases that models.yaml does not have; asks for them would fail."""
    for use_case in use_cases:
        for name in use_case.deployments:
            if name not in chats:
                said = f"use case {use_case.name}: deployments: models.yaml has no chat deployment {name!r}"
                yield Finding(Level.FAIL, "configuration", said, f"use one of: {', '.join(chats)}")
