"""Watching for an instant."""

from agent_pipelines.components.watch.cursor import TriggerCursor
from agent_pipelines.components.watch.sight import Due, Look, Sight, Waiting
from agent_pipelines.core.clock import isoformat
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.trigger import At, trigger_name


def watch_at(look: Look, trigger: At, cursor: TriggerCursor) -> Sight:
    """Due once, when the instant has come. An instant before the trigger was first watched is missed, not caught up."""
    due_at, occurrence = trigger.due_at, str(trigger.due_at)
    if look.now < due_at:
        return Sight(cursor, waiting=[Waiting(f"due at {isoformat(due_at)}", due_at)])
    with look.hub.database.reading() as connection:
        if look.hub.ticks.find(connection, look.task, trigger_name(trigger), occurrence) is not None:
            return Sight(cursor)
    missed = due_at < cursor.first
    due = Due(
        Origin.SCHEDULE,
        occurrence,
        due_at,
        trigger.logical_at(due_at),
        {},
        verdict=Verdict.MISSED if missed else None,
        reason=f"was due before {isoformat(cursor.first)}, when this trigger was first watched" if missed else None,
    )
    return Sight(cursor, due=[due])
