"""What a daemon keeps the time of a deployment with."""

from dagster import DagsterInstance

from agent_pipelines.components.batch.watch import BatchWatch
from agent_pipelines.components.watch.board import TriggerWatch
from agent_pipelines.core.ids import new_id
from agent_pipelines.engine.scheduler import Keeping
from agent_pipelines.hub import Hub


def keeping_of(hub: Hub, instance: DagsterInstance) -> Keeping:
    """What one daemon, which gets an id of its own, keeps the time with."""
    triggers, batches = TriggerWatch(hub, instance), BatchWatch(hub, instance)
    return Keeping(
        new_id(),
        hub.database,
        hub.clock,
        hub.triggers,
        hub.ticks,
        hub.bursts,
        hub.daemons,
        hub.executions,
        watch=lambda: triggers.look() + batches.look(),
    )
