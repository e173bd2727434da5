"""When Dagster has to look at a trigger of time.

Dagster reads five-field cron expressions, with rules of its own for clock changes and for days of month and week together.
What is due is decided by `engine.due` alone; here it is only made sure that Dagster looks when it is.
"""

from collections import defaultdict
from collections.abc import Sequence

import dagster as dg

from agent_pipelines.core.trigger import Cron, Interval, is_to_the_second

EVERY_MINUTE = ("* * * * *",)

_DAY = 1_440  # minutes
_WEEK = 7 * _DAY
_LINES = 60  # cron expressions of one schedule, at most
_EPOCH_WEEKDAY = 4  # 1970-01-01 was a Thursday


def cron_lines(trigger: Cron | Interval) -> tuple[str, ...]:
    """The cron expressions at which Dagster is to look.

    They are those of the trigger wherever Dagster can say them. Otherwise it looks more often than the trigger is due: each
    day for a day field that only we can read, each minute for an interval that divides neither the day nor the week. For a
    trigger to the second, which Dagster refuses, each minute stands in the place of what cannot be said.
    """
    if is_to_the_second(trigger):
        return EVERY_MINUTE
    if isinstance(trigger, Interval):
        return _lines_of_interval(trigger)
    _, minute, hour, *days = trigger.fields
    for line in (" ".join((minute, hour, *days)), f"{minute} {hour} * * *"):
        if _is_readable(line):
            return (line,)
    return EVERY_MINUTE


def _is_readable(line: str) -> bool:
    try:
        dg.ScheduleDefinition(name="probe", cron_schedule=line, job_name="probe")
    except (dg.DagsterInvalidDefinitionError, ValueError):
        return False
    return True


def _lines_of_interval(trigger: Interval) -> tuple[str, ...]:
    every, offset = int(trigger.every) // 60, int(trigger.offset) // 60
    if _DAY % every == 0:
        return _lines_of_day(every, offset)
    if _WEEK % every == 0:
        lines = [_line_of_week(minute) for minute in range(offset % every, _WEEK, every)]
        return tuple(lines) if len(lines) <= _LINES else EVERY_MINUTE
    return EVERY_MINUTE


def _lines_of_day(every: int, offset: int) -> tuple[str, ...]:
    hours_of: dict[int, list[int]] = defaultdict(list)
    for minute in range(offset % every, _DAY, every):
        hours_of[minute % 60].append(minute // 60)
    minutes_at: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for minute, hours in hours_of.items():
        minutes_at[tuple(hours)].append(minute)
    return tuple(
        f"{_list(minutes, 60)} {_list(hours, 24)} * * *"
        for hours, minutes in sorted(minutes_at.items(), key=lambda each: each[1])
    )


def _line_of_week(minute: int) -> str:
    weekday = (_EPOCH_WEEKDAY + minute // _DAY) % 7
    return f"{minute % 60} {minute % _DAY // 60} * * {weekday}"


def _list(values: Sequence[int], size: int) -> str:
    if len(values) == size:
        return "*"
    step = values[1] - values[0] if len(values) > 1 else 0
    if values[0] == 0 and step > 1 and list(values) == list(range(0, size, step)):
        return f"*/{step}"
    return ",".join(str(value) for value in values)
