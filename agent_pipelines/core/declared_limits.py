"""The limits that a project declares, on their way to the record."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from agent_pipelines.core.limit import LimitSpec

LIMITS = "agent_pipelines/limits"
"""Metadata key of a project's definitions, which has `DeclaredLimits` as JSON text."""


class DeclaredLimit(BaseModel):
    """A limit, and the file that declares it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: LimitSpec
    place: str | None = None


class DeclaredLimits(BaseModel):
    """All limits of a project."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    project: str
    limits: tuple[DeclaredLimit, ...] = ()

    def by_scope(self) -> Mapping[str, tuple[LimitSpec, str | None]]:
        """The limits by their scopes, each with its place."""
        return {each.spec.scope: (each.spec, each.place) for each in self.limits}
