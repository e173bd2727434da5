"""Limits in YAML."""

from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

from agent_pipelines.components.agent import Agent
from agent_pipelines.components.declaration import Declaration
from agent_pipelines.components.reading import Attributes, substitute, validate
from agent_pipelines.components.source import Source
from agent_pipelines.core.declared_limits import LIMITS, DeclaredLimit, DeclaredLimits
from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.core.limit import LimitSpec
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.hub import Hub


class LimitsSpec(BaseModel):
    """Limits that hold over all processes of a deployment."""

    model_config = ConfigDict(extra="forbid")

    limits: tuple[LimitSpec, ...] = Field(
        min_length=1,
        description="What is limited, and how.",
        examples=[[{"scope": "application/billing", "concurrency": 5}, {"scope": "provider/openai", "requests": "10/s"}]],
    )


class LimitsAttributes(Attributes):
    """The attributes of limits in YAML."""

    model_of: ClassVar[type[BaseModel]] = LimitsSpec


class Limits(Declaration, LimitsSpec):
    """How much may happen at once, or in a length of time, in applications, agents, providers, tasks, nodes and resources."""

    attributes = LimitsAttributes

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> "Limits":
        assert isinstance(model, LimitsAttributes)
        source = Source.of(context)
        limits = validate(cls, substitute(model.written, context, source, verbatim=lambda way: False), source)
        limits._source = source
        return limits

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        return dg.Definitions()


def problems_of_limits(
    declared: Sequence[Limits], tasks: Sequence[TaskSpec], agents: Sequence[Agent], *, further_agents: Collection[str]
) -> Iterator[DefinitionError]:
    """Scopes that are declared twice, or that nothing belongs to."""
    names = {agent.name for agent in agents} | set(further_agents)
    known: dict[str, Collection[str]] = {
        "agent": {f"agent/{name}" for name in names},
        "task": {f"task/{task.path}" for task in tasks},
        "resource": {f"resource/{key}" for task in tasks for key in task.resource_keys},
    }
    seen: dict[str, str | None] = {}
    for limits in declared:
        for index, limit in enumerate(limits.limits):
            way = ("limits", index, "scope")
            scope, of_workspace = limit.scope, "@" in limit.scope
            kind = scope.partition("/")[0]
            if scope in seen:
                problem = f"{scope} is limited already, in {seen[scope] or 'Python code'}"
                yield limits.source.problem(problem, way, "Write all that holds for a scope in one entry")
            elif kind in known and not of_workspace and scope not in known[kind]:
                near = get_close_matches(scope, known[kind], n=1)
                fix = f"Did you mean `{near[0]}`?" if near else f"There is: {', '.join(sorted(known[kind])[:10]) or 'none'}"
                yield limits.source.problem(f"there is no {scope}", way, fix)
            seen.setdefault(scope, limits.source.where(way))


def declared_limits(project: str, declared: Sequence[Limits]) -> DeclaredLimits:
    """The limits of a project, as they travel to the processes that note them."""
    return DeclaredLimits(
        project=project,
        limits=tuple(
            DeclaredLimit(spec=limit, place=limits.source.where(("limits", index)))
            for limits in declared
            for index, limit in enumerate(limits.limits)
        ),
    )


def limits_metadata(declared: DeclaredLimits) -> dict[str, Any]:
    """The limits as metadata of a project's definitions."""
    return {LIMITS: dg.TextMetadataValue(declared.model_dump_json())}


def note_limits(hub: Hub, declared: DeclaredLimits) -> None:
    """Put what a project declares in force, if it is not yet."""
    with hub.database.reading() as connection:
        if not hub.limits.differs(connection, declared.project, declared.by_scope()):
            return
    with hub.database.transaction() as connection:
        hub.limits.declare(connection, declared.project, declared.by_scope(), actor=f"project:{declared.project}")


def note_limits_of(hub: Hub, context: dg.OpExecutionContext | dg.AssetExecutionContext) -> None:
    """The same for the project that a step belongs to; one that was made without a project declares none."""
    try:
        metadata = context.repository_def.metadata or {}
    except Exception:  # Dagster's own private error: the step runs outside a project, as in a notebook
        return
    found = metadata.get(LIMITS)
    if isinstance(found, dg.TextMetadataValue) and found.text is not None:
        declared = DeclaredLimits.model_validate_json(found.text)
        if declared.limits:  # those that are gone are taken back by the sensor of the bursts
            note_limits(hub, declared)
