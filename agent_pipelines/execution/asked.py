"""What a tick asks of a task."""

from collections.abc import Mapping

from pydantic import JsonValue

from agent_pipelines.context.composer import trigger_variables
from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.errors import ErrorClass, ExecutionFailed, Stage
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.core.trigger import trigger_name
from agent_pipelines.engine.inbox import InboxEvent
from agent_pipelines.engine.ticks import Tick


def invocation_of(tick: Tick, spec: TaskSpec, spec_hash: str, event: Mapping[str, JsonValue] | None) -> Invocation:
    """The invocation of a tick. Raises ExecutionFailed (context) if a variable of its trigger cannot be rendered."""
    given = tick.inputs.get("variables")
    variables = variables_of(
        spec,
        tick.trigger,
        given if isinstance(given, dict) else {},
        event=event,
        due_at=tick.due_at,
        logical_at=tick.logical_at,
    )
    return Invocation(
        workspace=tick.workspace,
        application=tick.application,
        task=tick.task,
        spec_hash=spec_hash,
        trigger=tick.trigger,
        origin=tick.origin,
        occurrence=tick.occurrence,
        due_at=tick.due_at,
        logical_at=tick.logical_at,
        variables=variables,
        event=None if event is None else dict(event),
        actor=tick.actor,
    )


def variables_of(
    spec: TaskSpec,
    trigger: str,
    given: Mapping[str, JsonValue],
    *,
    event: Mapping[str, JsonValue] | None,
    due_at: Microseconds,
    logical_at: Microseconds,
) -> dict[str, JsonValue]:
    """The variables of an occurrence of a trigger, which is called by its name.

    `given` was rendered when the tick was claimed; what holds secrets was left out there, and is rendered here.
    Raises ExecutionFailed (context) if the event lacks what the trigger names.
    """
    declared = next((each for each in spec.triggers if trigger_name(each) == trigger), None)
    if declared is None:
        return dict(given)
    missing = {name: value for name, value in declared.variables.items() if name not in given}
    if not missing:
        return dict(given)
    rest = declared.model_copy(update={"variables": missing})
    return {**trigger_variables(rest, event=event, due_at=due_at, logical_at=logical_at), **given}


def event_of(inputs: Mapping[str, JsonValue]) -> str | None:
    """The id of the event that made a tick due; None if it was none."""
    event_id = inputs.get("event_id")
    return event_id if isinstance(event_id, str) else None


def payload(event_id: str | None, found: InboxEvent | None) -> dict[str, JsonValue] | None:
    """What an event brought. Raises ExecutionFailed (context) if it is no longer in the inbox."""
    if event_id is None:
        return None
    if found is None:
        raise ExecutionFailed(ErrorClass.CONTEXT, Stage.ADMIT, f"event {event_id} is not in the inbox")
    return found.payload
