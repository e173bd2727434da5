from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_pipelines.core.calendar import Calendar
from agent_pipelines.core.clock import from_microseconds, to_microseconds
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.trigger import After, AssetUpdate, At, Cron, Event, Interval, Trigger
from agent_pipelines.engine.due import begins_at, due_after, due_between, last_due, next_due, reason_not_to_run

NEW_YORK = "America/New_York"
SECOND = 1_000_000


def instant(text: str) -> int:
    return to_microseconds(datetime.fromisoformat(text))


def due(trigger: Trigger, start: str, end: str) -> list[str]:
    zone = ZoneInfo(trigger.timezone) if isinstance(trigger, Cron) else UTC
    instants = due_between(trigger, instant(start), instant(end))
    return [from_microseconds(each).astimezone(zone).strftime("%m-%d %H:%M%z") for each in instants]


def cron(text: str, timezone: str = "UTC") -> Cron:
    return Cron(cron=text, timezone=timezone)


def test_a_cron_is_read_in_its_zone() -> None:
    assert due(cron("0 6 * * mon-fri", NEW_YORK), "2026-01-02T00:00-05:00", "2026-01-06T23:00-05:00") == [
        "01-02 06:00-0500",
        "01-05 06:00-0500",
        "01-06 06:00-0500",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 2 * * *", ["03-08 03:00-0400"]),  # does not exist: the first instant after the gap
        ("0,30 2,3 * * *", ["03-08 03:00-0400", "03-08 03:30-0400"]),  # three times in one instant
        ("30 1 * * *", ["03-08 01:30-0500"]),
        ("0 */2 * * *", ["03-08 00:00-0500", "03-08 04:00-0400", "03-08 06:00-0400"]),
        (
            "0 * * * *",
            [f"03-08 0{hour}" for hour in ("0:00-0500", "1:00-0500", "3:00-0400", "4:00-0400", "5:00-0400", "6:00-0400")],
        ),
    ],
)
def test_clock_set_forward(text: str, expected: list[str]) -> None:
    assert due(cron(text, NEW_YORK), "2026-03-07T23:59-05:00", "2026-03-08T06:30-04:00") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 1 * * *", ["11-01 01:30-0400"]),  # exists twice: the first
        ("0 * * * *", ["11-01 00:00-0400", "11-01 01:00-0400", "11-01 01:00-0500", "11-01 02:00-0500"]),
        ("*/30 1 * * *", ["11-01 01:00-0400", "11-01 01:30-0400", "11-01 01:00-0500", "11-01 01:30-0500"]),
        ("0 2 * * *", ["11-01 02:00-0500"]),
    ],
)
def test_clock_set_back(text: str, expected: list[str]) -> None:
    assert due(cron(text, NEW_YORK), "2026-10-31T23:59-04:00", "2026-11-01T02:30-05:00") == expected


def test_after_the_second_of_two_times_comes_the_next_day() -> None:
    trigger = cron("30 1 * * *", NEW_YORK)
    for after in ("2026-11-01T01:30-04:00", "2026-11-01T01:15-05:00", "2026-11-01T01:45-05:00"):
        assert next_due(trigger, instant(after)) == instant("2026-11-02T01:30-05:00")


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("0 0 31 * *", ["01-31", "03-31", "05-31"]),
        ("0 0 L * *", ["01-31", "02-28", "03-31", "04-30", "05-31"]),
        ("0 0 29 2 *", []),
        ("0 0 * * fri#2", ["01-09", "02-13", "03-13", "04-10", "05-08"]),
        ("0 0 13 * fri", ["01-02", "01-09", "01-13", "01-16"]),  # one of them
        ("0 0 1-7/6 * */7", ["02-01", "03-01"]),  # both: the first or the seventh, if a Sunday
    ],
)
def test_ends_of_months_and_days_of_the_week(text: str, days: list[str]) -> None:
    found = due(cron(text), "2025-12-31T12:00Z", "2026-05-31T12:00Z")
    assert [line.split()[0] for line in found][: len(days) or None] == days


def test_a_leap_day_is_found_years_ahead() -> None:
    assert next_due(cron("0 0 29 2 *"), instant("2026-01-01T00:00Z")) == instant("2028-02-29T00:00Z")
    assert last_due(cron("0 0 29 2 *"), instant("2026-01-01T00:00Z")) == instant("2024-02-29T00:00Z")


def test_an_interval_counts_from_the_epoch() -> None:
    trigger = Interval(every=Duration(420), offset=Duration(30.5))
    first = next_due(trigger, 0)
    assert first == 30_500_000
    assert list(due_between(trigger, first, first + 2 * 420 * SECOND)) == [first + 420 * SECOND, first + 840 * SECOND]
    assert last_due(trigger, first) == first
    assert last_due(trigger, first - 1) == first - 420 * SECOND


def test_an_instant_is_due_once() -> None:
    trigger = At(at="2027-01-01T09:00:00+01:00")
    at = instant("2027-01-01T08:00Z")
    assert next_due(trigger, at - 1) == at
    assert next_due(trigger, at) is None
    assert last_due(trigger, at) == at
    assert last_due(trigger, at - 1) is None
    assert list(due_between(trigger, 0, 2 * at)) == [at]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("* 30 2 * * *", ["03:00:00"]),  # sixty times in one instant
        ("10 30 2 * * *", ["03:00:00"]),
        ("20,40 59 1 * * *", ["01:59:20", "01:59:40"]),
        ("0,30 59,0 1,3 * * *", ["01:00:00", "01:00:30", "01:59:00", "01:59:30", "03:00:00", "03:00:30", "03:59:00", "03:59:30"]),
        ("* */30 2 * * *", []),  # counts time as it passes, and there is none
    ],
)
def test_seconds_when_the_clock_is_set_forward(text: str, expected: list[str]) -> None:
    trigger = Cron(cron=text, seconds="first", timezone=NEW_YORK)
    found = due_between(trigger, instant("2026-03-08T00:59:59-05:00"), instant("2026-03-08T03:59:59-04:00"))
    assert [from_microseconds(each).astimezone(ZoneInfo(NEW_YORK)).strftime("%H:%M:%S") for each in found] == expected


def test_seconds_may_stand_last() -> None:
    first, last = Cron(cron="*/20 0 6 * * *", seconds="first"), Cron(cron="0 6 * * * */20", seconds="last")
    assert list(islice(due_after(first, 0), 10)) == list(islice(due_after(last, 0), 10))


@pytest.mark.parametrize(
    "trigger",
    [
        Cron(cron="0 * * * *", starts_at="2026-01-01T10:00Z", ends_at="2026-01-01T12:00Z"),
        Interval(every=Duration(3_600), starts_at="2026-01-01T10:00Z", ends_at="2026-01-01T12:00Z"),
    ],
)
def test_bounds_are_part_of_what_they_bound(trigger: Trigger) -> None:
    first, middle, last = (instant(f"2026-01-01T{hour}:00Z") for hour in (10, 11, 12))
    assert list(due_between(trigger, 0, 2 * last)) == list(due_after(trigger, 0)) == [first, middle, last]
    assert list(due_between(trigger, first, middle)) == [middle]
    assert next_due(trigger, 0) == first
    assert next_due(trigger, middle) == last
    assert next_due(trigger, last) is None
    assert last_due(trigger, 2 * last) == last
    assert last_due(trigger, middle + 1) == middle
    assert last_due(trigger, first - 1) is None


def test_bounds_may_lie_between_due_instants() -> None:
    trigger = Cron(cron="0 6 * * *", starts_at="2026-01-01T06:00:01Z", ends_at="2026-01-03T05:59:59Z")
    assert list(due_after(trigger, 0)) == [instant("2026-01-02T06:00Z")]
    assert last_due(trigger, instant("2027-01-01T00:00Z")) == instant("2026-01-02T06:00Z")


def test_an_instant_has_bounds_too() -> None:
    trigger = At(at="2026-01-01T10:00Z", starts_at="2026-01-01T10:00Z", ends_at="2026-01-01T10:00Z")
    assert list(due_after(trigger, 0)) == [instant("2026-01-01T10:00Z")]


def test_without_jitter_and_spread_a_tick_begins_when_it_is_due() -> None:
    for trigger in (cron("0 6 * * *"), Interval(every=Duration(60)), At(at="2026-01-01T10:00Z"), Event(event="push")):
        assert begins_at(trigger, "app/report", 17) == 17


def _tenths(later: list[int], length: int) -> list[int]:
    return [sum(each * 10 // (length * SECOND) == tenth for each in later) for tenth in range(10)]


def test_spread_parts_tasks_and_is_one_length_for_each() -> None:
    trigger = Interval(every=Duration(60), spread=Duration(300))
    later = [begins_at(trigger, f"app/task_{number}", 0) for number in range(2_000)]
    assert all(0 <= each < 300 * SECOND and each % 1_000 == 0 for each in later)
    assert len(set(later)) > 1_980
    assert all(150 < count < 250 for count in _tenths(later, 300))
    assert begins_at(trigger, "app/task_7", 60 * SECOND) == later[7] + 60 * SECOND


def test_jitter_parts_the_ticks_of_a_task() -> None:
    trigger = Interval(every=Duration(60), jitter=Duration(10))
    due_at = [number * 60 * SECOND for number in range(2_000)]
    later = [begins_at(trigger, "app/report", each) - each for each in due_at]
    assert all(0 <= each < 10 * SECOND and each % 1_000 == 0 for each in later)
    assert all(150 < count < 250 for count in _tenths(later, 10))
    both = Interval(every=Duration(60), jitter=Duration(10), spread=Duration(300))
    moved = begins_at(Interval(every=Duration(60), spread=Duration(300)), "app/report", 0)
    assert [begins_at(both, "app/report", each) - each for each in due_at[:50]] == [moved + each for each in later[:50]]


def test_the_beginning_is_the_same_on_all_machines() -> None:
    trigger = Interval(every=Duration(60), jitter=Duration(10), spread=Duration(300))
    assert begins_at(trigger, "app/report", 1_767_225_600_000_000) == 1767225761238000


def test_a_length_below_a_millisecond_is_none() -> None:
    assert begins_at(Interval(every=Duration(60), jitter=Duration(0.0004)), "app/report", 60) == 60


def test_a_calendar_is_read_in_the_zone_of_the_trigger() -> None:
    """The evening of 24 December in New York is Christmas in UTC."""
    evening, calendar = instant("2026-12-24T20:00-05:00"), Calendar(country="US")
    assert reason_not_to_run(Cron(cron="0 20 * * *", timezone=NEW_YORK, calendar=calendar), evening) is None
    words = "2026-12-25 is a holiday in US: Christmas Day"
    assert reason_not_to_run(Cron(cron="0 1 * * *", calendar=calendar), evening) == words
    assert reason_not_to_run(Interval(every=Duration(3_600), calendar=calendar), evening) == words
    assert reason_not_to_run(At(at="2026-12-25T01:00Z", calendar=calendar), evening) == words


def test_without_a_calendar_there_is_no_reason_not_to_run() -> None:
    for trigger in (cron("0 6 * * *"), Event(event="push")):
        assert reason_not_to_run(trigger, instant("2026-12-25T06:00Z")) is None


@pytest.mark.parametrize("trigger", [Event(event="e"), AssetUpdate(asset="a/b"), After(task="a/b")])
def test_other_triggers_are_never_due_by_time(trigger: Trigger) -> None:
    assert next_due(trigger, 0) is None
    assert last_due(trigger, 10**18) is None
    assert list(due_between(trigger, 0, 10**18)) == []


_fields = st.tuples(
    st.sampled_from(["0", "30", "*/15", "7,37", "*", "59"]),
    st.sampled_from(["*", "0", "1", "2", "1,2,3", "*/2", "0-5", "23"]),
    st.sampled_from(["*", "1", "31", "L", "*/2"]),
    st.sampled_from(["*", "3", "3,11", "*/5"]),
    st.sampled_from(["*", "sun", "mon-fri", "sun#1"]),
).map(" ".join)
_zones = st.sampled_from(
    [
        "UTC",
        NEW_YORK,
        "Europe/Berlin",
        "America/Santiago",
        "Australia/Lord_Howe",
        "Africa/Cairo",
        "Asia/Kolkata",
        "America/Havana",
    ]
)
_crons = st.builds(cron, _fields, _zones)
_intervals = st.builds(
    lambda every, offset: Interval(every=Duration(every), offset=Duration(offset)),
    st.floats(1, 10_000_000),
    st.floats(0, 10_000_000),
)
_starts = st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)).map(to_microseconds) | st.sampled_from(
    # around clock changes
    [
        instant(text) + minutes * 60 * SECOND + extra
        for text in ("2026-03-08T07:00Z", "2026-11-01T06:00Z", "2026-03-29T01:00Z", "2026-10-25T01:00Z", "2026-04-04T15:00Z")
        for minutes in range(-130, 130, 13)
        for extra in (0, 1)
    ]
)


@settings(max_examples=300, deadline=None)
@given(trigger=_crons | _intervals, start=_starts, hours=st.integers(0, 24 * 10))
def test_due_between_is_next_due_again_and_again(trigger: Trigger, start: int, hours: int) -> None:
    end = start + hours * 3_600 * SECOND
    repeated, instant = [], next_due(trigger, start)
    while instant is not None and instant <= end and len(repeated) < 300:
        repeated.append(instant)
        instant = next_due(trigger, instant)
    assert list(islice(due_between(trigger, start, end), 300)) == repeated
    assert all(left < right for left, right in pairwise([start, *repeated]))


@settings(max_examples=300, deadline=None)
@given(trigger=_crons | _intervals, at=_starts)
def test_last_due_is_the_one_before_the_next(trigger: Trigger, at: int) -> None:
    last = last_due(trigger, at)
    assert last is not None
    assert last <= at
    following = next_due(trigger, last)
    assert following == next_due(trigger, at)
    assert last_due(trigger, last) == last


@settings(max_examples=200, deadline=None)
@given(text=_fields, day=st.dates(datetime(2026, 1, 1).date(), datetime(2026, 12, 31).date()), zone=_zones)
def test_a_local_time_is_due_exactly_if_its_fields_match(text: str, day: object, zone: str) -> None:
    """Against an enumeration of the minutes of a day, for days without a clock change."""
    start = datetime.fromisoformat(f"{day}T00:00").replace(tzinfo=ZoneInfo(zone))
    end = start + timedelta(days=1)
    if start.utcoffset() != end.utcoffset():
        return
    minute, hour, dom, month, dow = text.split()
    found = {from_microseconds(each).astimezone(ZoneInfo(zone)) for each in _due_on(text, zone, start, end)}
    either = dom.startswith("*") or dow.startswith("*")
    month_matches = _matches(month, start.month, 1, 12)
    day_matches = _day_of_month(dom, start)
    week_matches = _day_of_week(dow, start)
    on = month_matches and ((day_matches and week_matches) if either else (day_matches or week_matches))
    expected = {
        start + timedelta(hours=h, minutes=m)
        for h in range(24)
        for m in range(60)
        if on and _matches(hour, h, 0, 23) and _matches(minute, m, 0, 59)
    }
    assert found == expected


def _due_on(text: str, zone: str, start: datetime, end: datetime) -> list[int]:
    return list(due_between(cron(text, zone), to_microseconds(start) - 1, to_microseconds(end) - 1))


def _matches(field: str, value: int, low: int, high: int) -> bool:
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = (span if span != "*" else f"{low}-{high}").partition("-")
        if value in range(int(first), int(last or first) + 1, int(step or 1)):
            return True
    return False


def _day_of_month(field: str, day: datetime) -> bool:
    if field == "L":
        return (day + timedelta(days=1)).day == 1
    return _matches(field, day.day, 1, 31)


def _day_of_week(field: str, day: datetime) -> bool:
    weekday = day.isoweekday()
    return {
        "*": True,
        "sun": weekday == 7,
        "mon-fri": weekday <= 5,
        "sun#1": weekday == 7 and day.day <= 7,
    }[field]
