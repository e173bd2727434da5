"""The true instants of our schedules in Dagster's pages, which would read them from cron expressions without seconds."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import count
from zoneinfo import ZoneInfo

from dagster._core.remote_representation.external import RemoteSchedule

from agent_pipelines.core.clock import Microseconds, from_microseconds
from agent_pipelines.core.trigger import Trigger
from agent_pipelines.engine.declaration import DeclaredTriggers
from agent_pipelines.engine.due import due_after, last_due

_NEVER = datetime(9000, 1, 1, tzinfo=UTC)
_stock = RemoteSchedule.execution_time_iterator


def show_exact_times() -> None:
    """Let this process tell the next and the last ticks of our schedules as they are kept; others stay as Dagster reads them."""
    RemoteSchedule.execution_time_iterator = _times  # pyright: ignore[reportAttributeAccessIssue]


def _times(schedule: RemoteSchedule, start_timestamp: float, ascending: bool = True) -> Iterator[datetime]:
    declared = DeclaredTriggers.from_metadata(schedule.metadata)
    if declared is None:
        yield from _stock(schedule, start_timestamp, ascending)
        return
    (trigger,) = declared.triggers
    zone = ZoneInfo(schedule.execution_timezone or "UTC")
    start = round(start_timestamp * 1_000_000)
    yield from _shown(due_after(trigger, start - 1) if ascending else _back(trigger, start), zone)
    # Dagster reads on without asking whether there is more.
    for days in count():
        yield _NEVER + timedelta(days=days) if ascending else datetime.fromtimestamp(0, UTC)


def _back(trigger: Trigger, start: Microseconds) -> Iterator[Microseconds]:
    while (instant := last_due(trigger, start)) is not None:
        yield instant
        start = instant - 1


def _shown(instants: Iterator[Microseconds], zone: tzinfo) -> Iterator[datetime]:
    return (from_microseconds(instant).astimezone(zone) for instant in instants)
