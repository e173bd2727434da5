"""What can be set of the warm launcher in dagster.yaml."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import dagster as dg

from agent_pipelines.core.errors import DefinitionError


@dataclass(frozen=True)
class WarmSettings:
    """The settings of `run_launcher.config`; times are in seconds."""

    isolation: str = "fork"
    max_runs: int = 50
    max_children: int | None = None
    memory_limit_mb: int | None = None
    start_timeout: float = 180.0
    idle_timeout: float = 900.0
    grace_after_interrupt: float = 30.0
    grace_after_terminate: float = 10.0
    preload: tuple[str, ...] = ()
    allowed_threads: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """The settings as Dagster read them. Raises DefinitionError for a number that makes no sense."""
        require_positive(config, "max_runs", "max_children", "memory_limit_mb", "start_timeout", "idle_timeout")
        return cls(**{**config, "preload": tuple(config.get("preload", ()))})

    def to_config(self) -> dict[str, Any]:
        """The settings in a form that `of` reads."""
        return asdict(self) | {"preload": list(self.preload)}

    @property
    def runs_of_a_child(self) -> int:
        """How many runs one child serves, one after the other."""
        return self.max_runs if self.isolation == "reuse" else 1


def require_positive(config: Mapping[str, Any], *names: str) -> None:
    """Raises DefinitionError for the first of these settings of `run_launcher` that is given and not above zero."""
    for name in names:
        value = config.get(name)
        if value is not None and value <= 0:
            field = f"run_launcher.config.{name}"
            raise DefinitionError(
                f"{value:g} is not above zero", field=field, file="dagster.yaml", fix="Leave it out for the default"
            )


_DEFAULT = WarmSettings()

CONFIG = {
    "isolation": dg.Field(
        dg.Enum("Isolation", [dg.EnumValue("fork"), dg.EnumValue("reuse")]),
        default_value=_DEFAULT.isolation,
        description="fork: each run has a process of its own. reuse: a process serves up to max_runs runs, one after the other.",
    ),
    "max_runs": dg.Field(
        dg.IntSource, default_value=_DEFAULT.max_runs, description="With reuse: runs of a process before it is replaced."
    ),
    "max_children": dg.Field(
        dg.Noneable(dg.IntSource),
        default_value=None,
        description="Runs of one code location at once; further launches wait. None: as many as the queue lets through.",
    ),
    "memory_limit_mb": dg.Field(
        dg.Noneable(dg.IntSource),
        default_value=None,
        description="Resident memory of one run's process, with what it shares; a run that takes more is ended and fails.",
    ),
    "start_timeout": dg.Field(
        float, default_value=_DEFAULT.start_timeout, description="How long a launch waits for the code and for a free place."
    ),
    "idle_timeout": dg.Field(
        float, default_value=_DEFAULT.idle_timeout, description="A warm process that nobody needs for so long ends."
    ),
    "grace_after_interrupt": dg.Field(
        float, default_value=_DEFAULT.grace_after_interrupt, description="From SIGINT to SIGTERM when a run is cancelled."
    ),
    "grace_after_terminate": dg.Field(
        float, default_value=_DEFAULT.grace_after_terminate, description="From SIGTERM to SIGKILL of the run's process group."
    ),
    "preload": dg.Field(
        [str], default_value=[], description="Modules to import before the fork, besides Dagster and the code location."
    ),
    "allowed_threads": dg.Field(
        dg.IntSource,
        default_value=_DEFAULT.allowed_threads,
        description="Threads, native ones too, that imports may leave behind without making a fork unsafe.",
    ),
}
"""The config schema of `WarmRunLauncher`."""
