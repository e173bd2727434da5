"""A self-hosted control plane for AI agents that work on their own, on Dagster's engine."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_pipelines import effects as effects
    from agent_pipelines import frames as frames
    from agent_pipelines.components.agent import Agent as Agent
    from agent_pipelines.components.decorator import agent_task as agent_task
    from agent_pipelines.components.limits import Limits as Limits
    from agent_pipelines.components.op import agent_op as agent_op
    from agent_pipelines.components.task import AgentTask as AgentTask
    from agent_pipelines.core.calendar import Calendar as Calendar
    from agent_pipelines.core.errors import DefinitionError as DefinitionError
    from agent_pipelines.core.errors import ErrorClass as ErrorClass
    from agent_pipelines.core.errors import RuntimeFailure as RuntimeFailure
    from agent_pipelines.core.event import Checkpoint as Checkpoint
    from agent_pipelines.core.event import Final as Final
    from agent_pipelines.core.event import Handle as Handle
    from agent_pipelines.core.event import Reasoning as Reasoning
    from agent_pipelines.core.event import Text as Text
    from agent_pipelines.core.event import ToolCall as ToolCall
    from agent_pipelines.core.event import ToolResult as ToolResult
    from agent_pipelines.core.event import Usage as Usage
    from agent_pipelines.core.event import UsageReport as UsageReport
    from agent_pipelines.core.execution import CheckResult as CheckResult
    from agent_pipelines.core.invocation import Invocation as Invocation
    from agent_pipelines.core.task import TaskSpec as TaskSpec
    from agent_pipelines.core.trigger import After as After
    from agent_pipelines.core.trigger import AssetUpdate as AssetUpdate
    from agent_pipelines.core.trigger import At as At
    from agent_pipelines.core.trigger import Cron as Cron
    from agent_pipelines.core.trigger import Event as Event
    from agent_pipelines.core.trigger import Interval as Interval
    from agent_pipelines.definitions import definitions as definitions
    from agent_pipelines.engine.burst_settings import BurstSettings as BurstSettings

# Imported when first used: Dagster alone takes longer to import than a short task to run.
_HOMES = {
    "After": "core.trigger",
    "Agent": "components.agent",
    "AgentTask": "components.task",
    "AssetUpdate": "core.trigger",
    "At": "core.trigger",
    "BurstSettings": "engine.burst_settings",
    "Calendar": "core.calendar",
    "CheckResult": "core.execution",
    "Checkpoint": "core.event",
    "Cron": "core.trigger",
    "DefinitionError": "core.errors",
    "ErrorClass": "core.errors",
    "Event": "core.trigger",
    "Final": "core.event",
    "Handle": "core.event",
    "Interval": "core.trigger",
    "Invocation": "core.invocation",
    "Limits": "components.limits",
    "Reasoning": "core.event",
    "RuntimeFailure": "core.errors",
    "TaskSpec": "core.task",
    "Text": "core.event",
    "ToolCall": "core.event",
    "ToolResult": "core.event",
    "Usage": "core.event",
    "UsageReport": "core.event",
    "agent_op": "components.op",
    "agent_task": "components.decorator",
    "definitions": "definitions",
}
_MODULES = {"effects", "frames"}

__all__ = [
    "After",
    "Agent",
    "AgentTask",
    "AssetUpdate",
    "At",
    "BurstSettings",
    "Calendar",
    "CheckResult",
    "Checkpoint",
    "Cron",
    "DefinitionError",
    "ErrorClass",
    "Event",
    "Final",
    "Handle",
    "Interval",
    "Invocation",
    "Limits",
    "Reasoning",
    "RuntimeFailure",
    "TaskSpec",
    "Text",
    "ToolCall",
    "ToolResult",
    "Usage",
    "UsageReport",
    "agent_op",
    "agent_task",
    "definitions",
    "effects",
    "frames",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
