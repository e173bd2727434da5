from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Literal

import pytest
from dagster._utils.schedules import schedule_execution_time_iterator
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_pipelines.core.clock import from_microseconds, to_microseconds
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.trigger import Cron, Interval
from agent_pipelines.engine.due import due_between
from agent_pipelines.engine.rhythm import EVERY_MINUTE, cron_lines

_START = datetime(2026, 2, 26, 23, 30, tzinfo=UTC)


def interval(every: str, offset: str = "0s") -> Interval:
    return Interval(every=Duration.parse(every), offset=Duration.parse(offset))


def looks(lines: tuple[str, ...], timezone: str = "UTC", start: datetime = _START, days: int = 15) -> list[datetime]:
    """When Dagster looks."""
    line = lines[0] if len(lines) == 1 else list(lines)
    found: list[datetime] = []
    for moment in schedule_execution_time_iterator(start.timestamp() + 1, line, timezone):
        if moment > start + timedelta(days=days):
            return found
        found.append(moment.astimezone(UTC))
    return found


def due(trigger: Cron | Interval, start: datetime = _START, days: int = 15) -> list[datetime]:
    first = to_microseconds(start)
    return [from_microseconds(each) for each in due_between(trigger, first, first + days * 86_400_000_000)]


@pytest.mark.parametrize(
    ("trigger", "lines"),
    [
        (interval("1m"), ("* * * * *",)),
        (interval("15m"), ("*/15 * * * *",)),
        (interval("15m", "5m"), ("5,20,35,50 * * * *",)),
        (interval("1h"), ("0 * * * *",)),
        (interval("6h", "30m"), ("30 */6 * * *",)),
        (interval("1d", "9h 15m"), ("15 9 * * *",)),
        (interval("1w"), ("0 0 * * 4",)),
        (interval("90m"), ("0 */3 * * *", "30 1,4,7,10,13,16,19,22 * * *")),
        (interval("56h"), ("0 0 * * 4", "0 8 * * 6", "0 16 * * 1")),
    ],
)
def test_an_interval_that_divides_day_or_week_is_said_exactly(trigger: Interval, lines: tuple[str, ...]) -> None:
    assert cron_lines(trigger) == lines
    assert looks(lines) == due(trigger)


@pytest.mark.parametrize("trigger", [interval("7m"), interval("90s"), interval("15m", "30s"), interval("25h"), interval("2d")])
def test_any_other_interval_is_looked_at_each_minute(trigger: Interval) -> None:
    assert cron_lines(trigger) == EVERY_MINUTE


@settings(max_examples=40, deadline=None)
@given(
    every=st.sampled_from([minutes for minutes in range(1, 10_081) if 1_440 % minutes == 0 or 10_080 % minutes == 0]),
    offset=st.integers(0, 30_000),
)
def test_dagster_looks_exactly_when_an_interval_is_due(every: int, offset: int) -> None:
    trigger = Interval(every=Duration(every * 60), offset=Duration(offset * 60))
    lines = cron_lines(trigger)
    if lines == EVERY_MINUTE:
        assert every == 1 or 10_080 // every > 60
    else:
        assert looks(lines, days=8) == due(trigger, days=8)


@pytest.mark.parametrize(
    ("cron", "line"),
    [
        ("0 6 * * mon-fri", "0 6 * * mon-fri"),
        ("0 9 * * 5L", "0 9 * * *"),  # Dagster writes the last Friday otherwise
        ("0 9 LW * *", "0 9 * * *"),
    ],
)
def test_what_dagster_cannot_read_is_looked_at_each_day(cron: str, line: str) -> None:
    assert cron_lines(Cron(cron=cron)) == (line,)


_ZONES = ["UTC", "America/New_York", "Europe/Berlin", "America/Santiago", "Asia/Kolkata", "Africa/Cairo"]


@pytest.mark.parametrize("timezone", _ZONES)
@pytest.mark.parametrize(
    "cron", ["30 1 * * *", "30 2 * * *", "15 0 * * *", "0 */6 * * *", "0 9 * * 5L", "0 9 */2 * fri", "0 9 * * fri#2", "0 0 L * *"]
)
def test_dagster_looks_soon_after_every_due_instant_of_a_year(cron: str, timezone: str) -> None:
    """Also through clock changes, and where Dagster reads the days otherwise than cron."""
    trigger = Cron(cron=cron, timezone=timezone)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    found = iter(looks(cron_lines(trigger), timezone, start, days=366))
    look = next(found)
    for instant in due(trigger, start, days=365):
        while look < instant:
            look = next(found)
        assert look - instant <= timedelta(hours=1)


@pytest.mark.parametrize(
    ("cron", "timezone", "day", "lost"),
    [
        ("*/15 1-3 * * *", "America/New_York", "2026-11-01", ["05:00", "05:15", "05:30", "05:45"]),  # the first 1 o'clock
        ("0 */2 * * *", "Europe/Berlin", "2026-10-25", ["00:00"]),  # the first 2 o'clock
        ("*/30 * * * *", "America/New_York", "2026-11-01", []),
        ("30 1,2 * * *", "Europe/Berlin", "2026-10-25", []),
        ("*/15 1-3 * * *", "America/New_York", "2026-03-08", []),
        ("0 */2 * * *", "Europe/Berlin", "2026-03-29", []),
    ],
)
def test_what_dagster_never_looks_at(cron: str, timezone: str, day: str, lost: list[str]) -> None:
    """The known disagreements: where the clock is set back, for fields with a range or a step. They are recorded as missed."""
    trigger = Cron(cron=cron, timezone=timezone)
    start = datetime.fromisoformat(f"{day}T00:00+00:00") - timedelta(days=1)
    instants = due(trigger, start, days=3)
    seen = looks(cron_lines(trigger), timezone, start, days=3)
    never = [
        instant
        for instant, following in pairwise([*instants, start + timedelta(days=4)])
        if not any(instant <= look < following for look in seen)
    ]
    assert [f"{instant:%H:%M}" for instant in never] == lost


@pytest.mark.parametrize(
    "trigger",
    [
        interval("5s"),
        interval("1h", "30s"),
        Cron(cron="*/5 * * * * *", seconds="first"),
        Cron(cron="0 6 * * * 30", seconds="last"),
    ],
)
def test_of_a_trigger_to_the_second_each_minute_stands_in_the_place(trigger: Cron | Interval) -> None:
    assert cron_lines(trigger) == EVERY_MINUTE


@pytest.mark.parametrize(("text", "seconds"), [("0 30 6 * * mon-fri", "first"), ("30 6 * * mon-fri 0", "last")])
def test_six_fields_that_are_due_at_whole_minutes_are_said_in_five(text: str, seconds: Literal["first", "last"]) -> None:
    trigger = Cron(cron=text, seconds=seconds)
    assert cron_lines(trigger) == ("30 6 * * mon-fri",)
    assert looks(cron_lines(trigger)) == due(trigger)
