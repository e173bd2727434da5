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
from agent_pipelines.engine.launch import launch_of
from agent_pipelines.engine.tick import CONTINUATION, Tick


def invocation_of(tick: Tick, spec: TaskSpec, spec_hash: str, event: Mapping[str, JsonValue] | None) -> Invocation:
    """The invocation that a tick asks for, which for a repair is that of another one.

    Raises ExecutionFailed (context) if a variable of its trigger cannot be rendered.
    """
    _, launch, _ = launch_of(tick)
    variables: Mapping[str, JsonValue] = launch.variables
    if tick.trigger != CONTINUATION:  # what goes on has its variables
        instants = {"due_at": launch.due_at, "logical_at": launch.logical_at}
        variables = variables_of(spec, launch.trigger, launch.variables, event=event, **instants)
    return Invocation(
        workspace=tick.workspace,
        application=tick.application,
        task=tick.task,
        spec_hash=spec_hash,
        trigger=launch.trigger,
        origin=launch.origin,
        occurrence=launch.occurrence,
        due_at=launch.due_at,
        logical_at=launch.logical_at,
        variables=dict(variables),
        event=None if event is None else dict(event),
        actor=launch.actor,
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


def event_of(tick: Tick) -> str | None:
    """The id of the event that made a tick due; None if it was none, or if it is not needed any more."""
    return None if tick.trigger == CONTINUATION else launch_of(tick)[1].event_id


def payload(event_id: str | None, found: InboxEvent | None) -> dict[str, JsonValue] | None:
    """What an event brought. Raises ExecutionFailed (context) if it is no longer in the inbox."""
    if event_id is None:
        return None
    if found is None:
        raise ExecutionFailed(ErrorClass.CONTEXT, Stage.ADMIT, f"event {event_id} is not in the inbox")
    return found.payload
