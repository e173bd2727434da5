"""From declarations to Dagster definitions: assets, checks, jobs, schedules, sensors, resources.

The names are imported when they are first used, because a task's own process needs none of Dagster.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_pipelines.components.agent import Agent as Agent
    from agent_pipelines.components.limits import Limits as Limits
    from agent_pipelines.components.task import AgentTask as AgentTask

__all__ = ["Agent", "AgentTask", "Limits"]

_HOMES = {"Agent": "agent", "AgentTask": "task", "Limits": "limits"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
