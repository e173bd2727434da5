"""The way from what Dagster hands to a schedule or a sensor to the nouns of its deployment."""

import threading
from collections.abc import Callable

import dagster as dg
from dagster import DagsterInstance

from agent_pipelines.engine.place import database_url
from agent_pipelines.hub import Hub, open_hub

HubOf = Callable[[DagsterInstance], Hub]

_lock = threading.Lock()
_opened: list[DagsterInstance] = []


def hub_of(instance: DagsterInstance) -> Hub:
    """The hub over the database that belongs to a Dagster instance."""
    return open_hub(database_url(instance))


def instance_of(context: dg.ScheduleEvaluationContext | dg.SensorEvaluationContext) -> DagsterInstance:
    """The instance that a schedule or a sensor is evaluated for, opened once a process.

    Dagster would open it for each evaluation, which costs more than all that a sensor does with it.
    """
    reference = context.instance_ref
    if reference is None:
        return context.instance
    with _lock:
        if not _opened or _opened[0].get_ref() != reference:
            _opened[:] = [DagsterInstance.from_ref(reference)]
        return _opened[0]
