"""The record as pandas tables, for notebooks and scripts.

Every function takes a `hub`, or the Dagster `instance` of a deployment; without one it opens that of DAGSTER_HOME.
`since` and `until` are aware datetimes or ISO 8601 texts with a UTC offset.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.home import Instance, instance_of_home
from agent_pipelines.engine.place import database_url
from agent_pipelines.hub import Hub, open_hub
from agent_pipelines.insight import frames
from agent_pipelines.insight.frames import Frame, Moment
from agent_pipelines.store.database import Database

__all__ = ["attempts", "dagster_runs", "events", "executions", "prompt_versions", "runs", "ticks"]

_Function = TypeVar("_Function", bound=Callable[..., Frame])


def _columns_of(told: Callable[..., Any]) -> Callable[[_Function], _Function]:
    """Let `help()` show the columns here, though they are written beside the code that makes them."""

    def with_columns(function: _Function) -> _Function:
        words = inspect.getdoc(told)
        if words is not None:
            function.__doc__ = words
        return function

    return with_columns


@_columns_of(frames.executions)
def executions(
    *,
    since: Moment = None,
    until: Moment = None,
    application: str | None = None,
    task: str | None = None,
    hub: Hub | None = None,
    instance: Instance | None = None,
) -> Frame:
    """One row for each execution."""
    return frames.executions(_database(hub, instance), since=since, until=until, application=application, task=task)


@_columns_of(frames.attempts)
def attempts(
    *,
    since: Moment = None,
    until: Moment = None,
    application: str | None = None,
    task: str | None = None,
    hub: Hub | None = None,
    instance: Instance | None = None,
) -> Frame:
    """One row for each attempt."""
    return frames.attempts(_database(hub, instance), since=since, until=until, application=application, task=task)


@_columns_of(frames.events)
def events(
    *,
    since: Moment = None,
    until: Moment = None,
    application: str | None = None,
    task: str | None = None,
    hub: Hub | None = None,
    instance: Instance | None = None,
) -> Frame:
    """One row for each event of an agent."""
    return frames.events(_database(hub, instance), since=since, until=until, application=application, task=task)


@_columns_of(frames.ticks)
def ticks(
    *,
    since: Moment = None,
    until: Moment = None,
    application: str | None = None,
    task: str | None = None,
    hub: Hub | None = None,
    instance: Instance | None = None,
) -> Frame:
    """One row for each tick."""
    return frames.ticks(_database(hub, instance), since=since, until=until, application=application, task=task)


@_columns_of(frames.prompt_versions)
def prompt_versions(
    *,
    since: Moment = None,
    until: Moment = None,
    application: str | None = None,
    task: str | None = None,
    hub: Hub | None = None,
    instance: Instance | None = None,
) -> Frame:
    """One row for each prompt version."""
    return frames.prompt_versions(_database(hub, instance), since=since, until=until, application=application, task=task)


@_columns_of(frames.dagster_runs)
def dagster_runs(
    *,
    since: Moment = None,
    until: Moment = None,
    application: str | None = None,
    task: str | None = None,
    instance: Instance | None = None,
) -> Frame:
    """One row for each Dagster run."""
    gateway = DagsterGateway(instance or instance_of_home())
    return frames.dagster_runs(gateway, since=since, until=until, application=application, task=task)


@_columns_of(frames.runs)
def runs(
    *,
    since: Moment = None,
    until: Moment = None,
    application: str | None = None,
    task: str | None = None,
    hub: Hub | None = None,
    instance: Instance | None = None,
) -> Frame:
    """One row for each execution, with its Dagster run."""
    instance = instance or instance_of_home()
    gateway = DagsterGateway(instance)
    return frames.runs(_database(hub, instance), gateway, since=since, until=until, application=application, task=task)


def _database(hub: Hub | None, instance: Instance | None) -> Database:
    return (hub or open_hub(database_url(instance or instance_of_home()))).database
