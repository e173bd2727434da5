"""Which schedules and sensors are switched on, and since when, as Dagster has written it down."""

from collections.abc import Mapping, Sequence

from dagster import DagsterInstance
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorStatus, ScheduleInstigatorData, SensorInstigatorData

from agent_pipelines.core.clock import Microseconds


def switched_on_at(instance: DagsterInstance, schedule_name: str, lines: Sequence[str]) -> Microseconds | None:
    """When a schedule was last switched on; None if Dagster does not know, or if it was declared otherwise then.

    `lines` are its cron expressions: since an edit, Dagster's note says nothing of the present declaration.
    """
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE):
        data = state.instigator_data
        if state.instigator_name != schedule_name or not isinstance(data, ScheduleInstigatorData):
            continue
        declared = [data.cron_schedule] if isinstance(data.cron_schedule, str) else list(data.cron_schedule)
        if data.start_timestamp is not None and declared == list(lines):
            return round(data.start_timestamp * 1_000_000)
    return None


def switched(instance: DagsterInstance) -> Mapping[str, bool]:
    """The schedules and sensors that somebody has switched, by name, and whether on; the others are as they are declared."""
    states = {InstigatorStatus.RUNNING: True, InstigatorStatus.STOPPED: False}
    return {state.instigator_name: states[state.status] for state in instance.all_instigator_state() if state.status in states}


def sensor_notes(instance: DagsterInstance) -> Mapping[str, tuple[str | None, float | None]]:
    """What Dagster keeps of the sensors, by name: the cursor, and when each was last switched on, in seconds."""
    return {
        state.instigator_name: (state.instigator_data.cursor, state.instigator_data.last_sensor_start_timestamp)
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        if isinstance(state.instigator_data, SensorInstigatorData)
    }
