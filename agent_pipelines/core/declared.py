"""What a project declares, as far as tasks that are registered at run time may use it."""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from agent_pipelines.core.task import TaskKey

DECLARED = "agent_pipelines/declared"
"""Metadata key of the Dagster sensor of a workspace's bursts, which tells `Declared` as JSON text to those who do not load
the project."""


class Declared(BaseModel):
    """The names that a registered task may refer to. It brings no code of its own: what is not here, it cannot use.

    `references` are the Python functions that checks and gates of declared tasks name; `assets` are the keys of assets that are
    no tasks.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    workspaces: tuple[str, ...] = ("default",)
    agents: tuple[str, ...] = ()
    node_agents: tuple[str, ...] = ()
    """Those whose nodes fetch their work, and may be registered."""
    references: tuple[str, ...] = ()
    tasks: tuple[TaskKey, ...] = ()
    assets: tuple[str, ...] = ()

    def paths(self, workspace: str) -> set[str]:
        """`application/task` of the tasks of a workspace."""
        return {f"{application}/{name}" for of, application, name in self.tasks if of == workspace}

    @classmethod
    def of_all(cls, parts: "Iterable[Declared]") -> "Declared":
        """What several code locations declare together."""
        found = list(parts)
        return cls(
            workspaces=tuple(sorted({name for part in found for name in part.workspaces})),
            agents=tuple(sorted({name for part in found for name in part.agents})),
            node_agents=tuple(sorted({name for part in found for name in part.node_agents})),
            references=tuple(sorted({name for part in found for name in part.references})),
            tasks=tuple(sorted({task for part in found for task in part.tasks})),
            assets=tuple(sorted({key for part in found for key in part.assets})),
        )
