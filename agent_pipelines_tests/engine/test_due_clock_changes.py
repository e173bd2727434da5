"""What is due around clock changes, against an enumeration that applies the written rules.

Every zone of the time zone database is in it: one zone of each set of rules that zones share in the years 2024 to 2028, and
some odd changes of the past.
"""

from bisect import bisect_left, bisect_right
from datetime import datetime
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_pipelines.core.trigger import Cron
from agent_pipelines.engine.due import due_between, last_due, next_due
from agent_pipelines_tests.engine.clock_changes import Change, Reading, Walk, changes_of, offset_at, rules_of_all_zones

SECOND = 1_000_000
MINUTE = 60


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


START, END = seconds("2024-01-01T00:00Z"), seconds("2029-01-01T00:00Z")
RULES = rules_of_all_zones(START, END)
CHANGES = [change for changes in RULES.values() for change in changes]
ODD_CHANGES = [
    change
    for zone, day in (
        ("Pacific/Apia", "2011-12-30"),  # left out a day
        ("Pacific/Fakaofo", "2011-12-30"),
        ("Pacific/Kiritimati", "1994-12-31"),
        ("Pacific/Kwajalein", "1993-08-21"),
        ("Pacific/Kwajalein", "1969-09-30"),  # showed most of a day twice
        ("Africa/Monrovia", "1972-01-07"),  # 44 minutes and 30 seconds
        ("Asia/Kathmandu", "1986-01-01"),  # 15 minutes
        ("America/Caracas", "2007-12-09"),  # half an hour back
        ("America/Caracas", "2016-05-01"),
        ("Asia/Pyongyang", "2018-05-04"),
        ("Australia/Lord_Howe", "1981-03-01"),
        ("Antarctica/Casey", "2020-10-04"),  # three hours
        ("Antarctica/Vostok", "1994-02-01"),  # seven hours
        ("America/St_Johns", "1988-04-03"),  # two hours, at one minute past midnight
        ("America/Sao_Paulo", "2018-11-04"),  # no midnight
    )
    for change in changes_of(zone, seconds(f"{day}T00:00Z") - 172_800, seconds(f"{day}T00:00Z") + 172_800)
]

# `H` is the hour that the clock leaves out or shows twice, `P` the one before, `N` the one after it.
TO_THE_MINUTE = [
    "30 H * * *",
    "0 H * * *",
    "59 P * * *",
    "0 N * * *",
    "15,45 H,N * * *",
    "7-52/5 P,H,N * * *",
    "20-40 0-5 * * *",
    "0-59 H * * *",
    "0 0 * * *",
    "0 0,12 * * sun,mon",
    "30 H * * sun",
    "30 H 1-7,25-31 * sat",  # one of them
    "30 H */2 * 0-7",  # both
    "30 H L 3,10 *",
    "30 23 28-31 * *",
    "* * * * *",
    "*/7 * * * *",
    "30 * * * *",
    "59 */2 * * *",
    "*/20 H * * *",
    "* P,H,N * * sun#1",
    "*/15 0,23 * * *",
    "0 */5 * * mon-fri",
]
TO_THE_SECOND = [
    "* 30 H * * *",
    "10,50 30 H * * *",
    "59 59 P * * *",
    "* 0-59 P,H,N * * *",
    "*/25 1 0-23 * * *",
    "* * * * * *",
    "*/7 * * * * *",
    "30 * * * * *",
    "1-3 */10 H * * *",
    "0,59 59 * * * sun",
]


@cache
def reading(text: str) -> Reading:
    return Reading(text)


@cache
def cron(text: str, zone: str) -> Cron:
    return Cron(cron=text, seconds="first", timezone=zone)


def at_change(text: str, change: Change) -> str:
    for letter, hour in (("P", change.hour - 1), ("H", change.hour), ("N", change.hour + 1)):
        text = text.replace(letter, str(hour % 24))
    return text


def hold(text: str, change: Change, walk: Walk) -> None:
    """What is due is what the model says: all at once, one after the other, and looking back."""
    trigger = cron(text, change.zone)
    expected = reading(text).due(walk)
    first, last = walk.instants[0], walk.instants[-1]
    found = [instant // SECOND for instant in due_between(trigger, first * SECOND, last * SECOND)]
    assert found == expected, f"{text} at {change}"
    probes = {change.at - 1, change.at, change.at + 1, change.at + abs(change.by) // 2, change.at + abs(change.by)}
    probes.update(expected[:: max(1, len(expected) // 4)])
    for probe in sorted(each for each in probes if first < each < last):
        for instant in (probe * SECOND - 1, probe * SECOND, probe * SECOND + 1):
            if (after := bisect_right(expected, instant // SECOND)) < len(expected):
                assert next_due(trigger, instant) == expected[after] * SECOND, f"{text} at {change} after {instant}"
            if before := bisect_left(expected, instant // SECOND + 1):
                assert last_due(trigger, instant) == expected[before - 1] * SECOND, f"{text} at {change} until {instant}"


def test_all_zones_and_their_changes_are_known() -> None:
    assert len(RULES) > 60
    assert len(CHANGES) > 250
    assert {abs(change.by) for change in ODD_CHANGES} >= {86_400, 82_800, 44 * 60 + 30, 15 * 60, 30 * 60, 7 * 3_600}


@pytest.mark.parametrize("zone", RULES)
def test_around_each_clock_change_what_is_due_follows_the_written_rules(zone: str) -> None:
    for change in RULES[zone] or [Change(zone, START + 59 * 86_400, 0)]:
        walk = Walk.around(change, 30, step=MINUTE)
        for text in TO_THE_MINUTE:
            hold(at_change(f"0 {text}", change), change, walk)


@pytest.mark.parametrize("zone", RULES)
def test_seconds_follow_the_same_rules(zone: str) -> None:
    for change in RULES[zone][:4] or [Change(zone, START + 59 * 86_400, 0)]:
        walk = Walk.around(change, 2, step=1)
        for text in TO_THE_SECOND:
            hold(at_change(text, change), change, walk)


@pytest.mark.parametrize("change", ODD_CHANGES, ids=str)
def test_odd_changes_follow_them_too(change: Change) -> None:
    for hours, step, texts in ((60, MINUTE, [f"0 {text}" for text in TO_THE_MINUTE]), (3, 1, TO_THE_SECOND)):
        if step == MINUTE and change.by % MINUTE:
            continue
        walk = Walk.around(change, hours, step=step)
        for text in texts:
            hold(at_change(text, change), change, walk)


def _field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    step = st.tuples(st.sampled_from(["*"]) | span, st.integers(1, high)).map(lambda parts: f"{parts[0]}/{parts[1]}")
    single = number.map(str) | span | step
    return st.just("*") | single | st.lists(single, min_size=2, max_size=3).map(",".join)


_days_of_week = _field(0, 7) | st.sampled_from(["sun", "mon-fri", "sat#1", "sun#2", "5L"])
_expressions = st.tuples(
    st.just("0"), _field(0, 59), _field(0, 23), _field(1, 31) | st.just("L"), st.just("*"), _days_of_week
).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(text=_expressions, change=st.sampled_from(CHANGES + [change for change in ODD_CHANGES if change.by % MINUTE == 0]))
def test_any_expression_follows_them(text: str, change: Change) -> None:
    hold(text, change, Walk.around(change, 30, step=MINUTE))


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Santiago", "Asia/Kathmandu", "Pacific/Kiritimati"])
@pytest.mark.parametrize(
    "days",
    [
        "28 * *",
        "29 * *",
        "30 * *",
        "31 * *",
        "L * *",
        "L 2 *",
        "29 2 *",
        "29 feb mon",
        "*/9 * tue",
        "1,L * *",
        "* * sun#5",
        "* * 5L",
        "13 * fri",
        "* 6-8/2 mon,wed",
    ],
)
def test_days_are_those_of_the_calendar(days: str, zone: str) -> None:
    """Of all days of five years, with a leap day and the ends of sixty months."""
    trigger, model = cron(f"0 30 12 {days}", zone), reading(f"0 30 12 {days}")
    found = [instant // SECOND for instant in due_between(trigger, START * SECOND, END * SECOND)]
    shown = [divmod(instant + offset_at(zone, instant), 86_400) for instant in found]
    assert {time for _, time in shown} == {12 * 3_600 + 30 * 60}
    expected = range(START // 86_400 + 1, END // 86_400 - 1)
    assert [day for day, _ in shown if day in expected] == [day for day in expected if model.names_day(day)]
