import ast
import hashlib
from datetime import UTC, date, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from zoneinfo import TZPATH, ZoneInfo, available_timezones

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agent_pipelines.core.clock import from_microseconds, to_microseconds
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.trigger import At, Cron, Event, Interval, Trigger
from agent_pipelines.engine.due import due_between
from agent_pipelines.insight import cron_fields, second_reading, zone_days
from agent_pipelines.insight.second_reading import due_instants

SECOND = 1_000_000
DAY = 86_400 * SECOND


def instant(text: str) -> int:
    return to_microseconds(datetime.fromisoformat(text))


def due(trigger: Trigger, after: str, until: str) -> list[str]:
    zone = ZoneInfo(trigger.timezone) if isinstance(trigger, Cron) else UTC
    found = due_instants(trigger, instant(after), instant(until))
    return [from_microseconds(each).astimezone(zone).strftime("%m-%d %H:%M:%S%z") for each in found]


def agree(trigger: Trigger, after: int, until: int) -> None:
    assert list(due_instants(trigger, after, until)) == list(due_between(trigger, after, until)), (trigger, after, until)


@cache
def changes(year: int) -> dict[str, tuple[date, ...]]:
    """A zone for each of the different zone files, with the days of UTC on which its clocks change in a year."""
    zones: dict[bytes, str] = {}
    for zone in sorted(available_timezones()):
        for place in TZPATH:
            file = Path(place) / zone
            if file.is_file():
                zones.setdefault(hashlib.sha256(file.read_bytes()).digest(), zone)
                break
        else:
            zones.setdefault(zone.encode(), zone)
    first, last = date(year, 1, 1).toordinal(), date(year, 12, 31).toordinal()
    found: dict[str, tuple[date, ...]] = {}
    for zone in zones.values():
        info = ZoneInfo(zone)
        days = (date.fromordinal(day) for day in range(first, last + 1))
        offsets = [(day, datetime(day.year, day.month, day.day, tzinfo=UTC).astimezone(info).utcoffset()) for day in days]
        found[zone] = tuple(day for (day, offset), (_, next_offset) in pairwise(offsets) if offset != next_offset)
    return found


@pytest.mark.parametrize("module", [cron_fields, second_reading, zone_days])
def test_it_shares_no_code_with_the_clock(module: object) -> None:
    file = getattr(module, "__file__", None)
    assert file is not None
    allowed = {"agent_pipelines.core.clock", "agent_pipelines.core.trigger", "agent_pipelines.insight"}
    for node in ast.walk(ast.parse(Path(file).read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert "cron" not in name or name == cron_fields.__name__
            assert not name.startswith("agent_pipelines") or name in allowed or name.rpartition(".")[0] in allowed, name
        if isinstance(node, ast.Attribute):
            assert node.attr != "times", "that is how a trigger asks the clock's own reading"


@pytest.mark.parametrize(
    ("text", "seconds", "expected"),
    [
        ("30 2 * * *", None, ["03-29 03:00:00+0200"]),
        ("* 30 2 * * *", "first", ["03-29 03:00:00+0200"]),
        ("0 3 * * *", None, ["03-29 03:00:00+0200"]),
        ("30 2,3 * * *", None, ["03-29 03:00:00+0200", "03-29 03:30:00+0200"]),
        ("*/30 2 * * *", None, []),
        ("0 */2 * * *", None, ["03-29 00:00:00+0100", "03-29 04:00:00+0200"]),
        ("45,15 59 1 * * *", "first", ["03-29 01:59:15+0100", "03-29 01:59:45+0100"]),
    ],
)
def test_a_clock_that_is_set_forward(text: str, seconds: str | None, expected: list[str]) -> None:
    trigger = Cron.model_validate({"cron": text, "seconds": seconds, "timezone": "Europe/Berlin"})
    assert due(trigger, "2026-03-28T23:59:59+01:00", "2026-03-29T04:30:00+02:00") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 2 * * *", ["10-25 02:30:00+0200"]),
        ("30 * * * *", ["10-25 01:30:00+0200", "10-25 02:30:00+0200", "10-25 02:30:00+0100", "10-25 03:30:00+0100"]),
        ("*/40 2 * * *", ["10-25 02:00:00+0200", "10-25 02:40:00+0200", "10-25 02:00:00+0100", "10-25 02:40:00+0100"]),
    ],
)
def test_a_clock_that_is_set_back(text: str, expected: list[str]) -> None:
    trigger = Cron(cron=text, timezone="Europe/Berlin")
    assert due(trigger, "2026-10-25T01:15:00+02:00", "2026-10-25T03:45:00+01:00") == expected


def test_a_day_that_a_zone_leaves_out() -> None:
    trigger = Cron(cron="0 12 * * *", timezone="Pacific/Apia")  # it had no 30 December 2011
    assert due(trigger, "2011-12-29T00:00:00-10:00", "2012-01-01T00:00:00+14:00") == [
        "12-29 12:00:00-1000",
        "12-31 00:00:00+1400",
        "12-31 12:00:00+1400",
    ]


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ("L * *", [31]),
        ("LW * *", [30]),
        ("L,15 * *", [15, 31]),
        ("13 * fri", [2, 9, 13, 16, 23, 30]),
        ("*/2 * mon", [5, 19]),
        ("* * mon#2,5L", [12, 30]),
        ("* * 7", [4, 11, 18, 25]),
        ("* * */7", [4, 11, 18, 25]),
        ("29-31/2 * *", [29, 31]),
        ("28/2 * *", [28, 30]),
        ("1 jan,feb *", []),
    ],
)
def test_days(days: str, expected: list[int]) -> None:
    trigger = Cron(cron=f"0 0 {days}")
    found = due_instants(trigger, instant("2026-10-01T00:00:00Z") - 1, instant("2026-10-31T23:59:59Z"))
    assert [from_microseconds(each).day for each in found] == expected
    agree(trigger, instant("2024-01-01T00:00:00Z"), instant("2024-12-31T00:00:00Z"))


def test_intervals_instants_and_bounds() -> None:
    assert due(Interval(every=Duration(90), offset=Duration(30)), "2026-01-01T00:00:30Z", "2026-01-01T00:03:30Z") == [
        "01-01 00:02:00+0000",
        "01-01 00:03:30+0000",
    ]
    bounded = Interval(every=Duration(60), starts_at="2026-01-01T00:02:00Z", ends_at="2026-01-01T00:03:00Z")
    assert due(bounded, "2026-01-01T00:00:00Z", "2026-01-01T09:00:00Z") == ["01-01 00:02:00+0000", "01-01 00:03:00+0000"]
    at = At(at="2026-01-01T09:00:00+01:00")
    assert due(at, "2026-01-01T07:59:59Z", "2026-01-01T08:00:00Z") == ["01-01 08:00:00+0000"]
    assert due(at, "2026-01-01T08:00:00Z", "2026-01-01T09:00:00Z") == []
    assert list(due_instants(Event(event="x"), 0, DAY)) == []


EXPRESSIONS = [
    ("30 2 * * *", None),
    ("0 0 * * *", None),
    ("*/20 * * * *", None),
    ("7 0-4/2 * * *", None),
    ("5 59 23,0 * * *", "first"),
]


@pytest.mark.parametrize("zone", changes(2026))
def test_it_agrees_with_the_clock_around_every_change_of_a_zone(zone: str) -> None:
    days = changes(2026)[zone] or (date(2026, 6, 1),)
    for text, seconds in EXPRESSIONS:
        trigger = Cron.model_validate({"cron": text, "seconds": seconds, "timezone": zone})
        for day in days:
            middle = to_microseconds(datetime(day.year, day.month, day.day, tzinfo=UTC))
            agree(trigger, middle - DAY, middle + 2 * DAY)


def _field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high).map(str)
    span = st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda pair: f"{min(pair)}-{max(pair)}")
    whole = st.one_of(st.just("*"), number, span)
    step = st.tuples(whole, st.integers(1, 12)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    return st.lists(st.one_of(whole, step), min_size=1, max_size=2).map(",".join)


_DAYS = st.one_of(st.just("*"), _field(1, 31), st.sampled_from(["L", "LW", "1,L"]))
_WEEKDAYS = st.one_of(st.just("*"), _field(0, 7), st.sampled_from(["mon-fri", "sun", "5L", "1#2", "sat,wed#5", "7#1", "7L"]))


@st.composite
def crons(draw: st.DrawFn) -> Cron | None:
    fields = [
        draw(_field(0, 59)),
        draw(_field(0, 23)),
        draw(_DAYS),
        draw(st.one_of(st.just("*"), _field(1, 12))),
        draw(_WEEKDAYS),
    ]
    zone = draw(st.sampled_from(sorted(changes(2026))))
    try:
        if draw(st.booleans()):
            return Cron(cron=" ".join([draw(_field(0, 59)), *fields]), seconds="first", timezone=zone)
        return Cron(cron=" ".join(fields), timezone=zone)
    except ValidationError:
        return None  # never fires


@settings(max_examples=150, deadline=None)
@given(trigger=crons(), day=st.dates(date(1973, 1, 1), date(2037, 12, 1)), hours=st.integers(1, 60))
@example(trigger=Cron(cron="15 0 * * *", timezone="America/St_Johns"), day=date(2006, 10, 28), hours=48)  # changed at 00:01
@example(trigger=Cron(cron="30 0 * * *", timezone="Antarctica/Troll"), day=date(2026, 3, 28), hours=48)  # by two hours
@example(trigger=Cron(cron="45 1 * * *", timezone="Australia/Lord_Howe"), day=date(2026, 4, 4), hours=48)  # by half an hour
def test_it_agrees_with_the_clock(trigger: Cron | None, day: date, hours: int) -> None:
    if trigger is not None:
        start = to_microseconds(datetime(day.year, day.month, day.day, tzinfo=UTC))
        agree(trigger, start, start + hours * 3_600 * SECOND)
