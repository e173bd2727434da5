from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from agent_pipelines.core.trigger import Cron, Trigger, is_to_the_second

TRIGGER = TypeAdapter[Trigger](Trigger)


def trigger(kind: str, **values: Any) -> Trigger:
    return TRIGGER.validate_python({"kind": kind, **values})


def cron(text: str, **values: Any) -> Trigger:
    return trigger("cron", cron=text, **values)


def every(text: str, **values: Any) -> Trigger:
    return trigger("interval", every=text, **values)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: cron("0 6 * *"), "cron: '0 6 * *' has 4 fields; write five: minute hour day-of-month month day-of-week"),
        (
            lambda: cron("0 6 * * * *"),
            "has 6 fields; say with `seconds: first` or `seconds: last` which end the seconds stand at",
        ),
        (lambda: cron("0 6 * * *", seconds="first"), "has 5 fields; write six: second minute hour"),
        (lambda: cron("0 6 * * *", seconds="last"), "has 5 fields; write six: minute hour day-of-month month day-of-week second"),
        (lambda: cron("61 6 * * *"), "cron: '61 6 * * *' is not a cron expression that ever fires, look at its minute"),
        (lambda: cron("0 6 * * * 99", seconds="last"), "look at its second"),
        (lambda: cron("0 6 31 2,4 *"), "look at its day-of-month"),
        (lambda: cron("0 6 */29 2 mon#5"), "not a cron expression that ever fires"),
        # Clocks of Cairo leave out this hour on the last Friday of each April.
        (lambda: cron("*/5 0 * 4 5L", timezone="Africa/Cairo"), "not a cron expression that ever fires in Africa/Cairo"),
        (lambda: cron("0 6 * * *", timezone="Europe/Berln"), "'Europe/Berln' is not a time zone; did you mean Europe/Berlin?"),
        (lambda: cron("0 6 * * *", timezone="../etc"), "is not a time zone"),
        (
            lambda: cron("0 6 1 1 *", starts_at="2027-01-02T00:00Z", ends_at="2027-12-31T00:00Z"),
            "ends_at: the first instant due from `starts_at` on is 2028-01-01T06:00:00Z, so the trigger would never fire",
        ),
        (
            lambda: every("1d", starts_at="2027-01-02T00:00:01Z", ends_at="2027-01-02T23:59:59Z"),
            "ends_at: the first instant due from `starts_at` on is 2027-01-03T00:00:00Z",
        ),
        (lambda: every("1d", starts_at="2027-01-02T00:00Z", ends_at="2027-01-01T00:00Z"), "ends_at: lies before `starts_at`"),
        (lambda: cron("0 6 * * *", starts_at="9999-12-31T23:59Z"), "not a cron expression that ever fires"),
        (lambda: every("1d", starts_at="2027-01-02"), "has no UTC offset"),
        (lambda: every("1d", ends_at="tomorrow"), "'tomorrow' is not an instant; write ISO 8601 with UTC offset"),
        (lambda: every("1d", starts_at="1969-12-31T00:00Z"), "lies before 1970"),
        (lambda: every("500ms"), "every 0.5 s is too short; write 1s or more"),
        (lambda: trigger("at", at="2027-01-01T09:00:00"), "has no UTC offset; write one"),
        (lambda: trigger("at", at="2027-01-01T09:00Z", ends_at="2026-12-31T00:00Z"), "at: does not lie between `starts_at`"),
        (lambda: trigger("at", at="2027-01-01T09:00Z", starts_at="2027-12-31T00:00Z"), "at: does not lie between `starts_at`"),
        (
            lambda: every("1d", catch_up="none", catch_up_within="1h"),
            "catch_up_within: with `catch_up: none` nothing is caught up",
        ),
        (lambda: every("1d", queue_limit=5), "queue_limit: with `overlap: skip` nothing is queued"),
        (lambda: every("1d", overlap="queue", queue_limit=0), "greater than or equal to 1"),
        (lambda: every("5s", jitter="6s"), "jitter: 6 s is longer than the 5 s between two due instants"),
        (lambda: cron("0,1 6 * * *", jitter="61s"), "jitter: 61 s is longer than the 60 s between two due instants"),
        (lambda: cron("0 6 * * mon", jitter="8d"), "is longer than the 604800 s between two due instants"),
        (lambda: cron("0 6 * * *", calendar={"country": "XX"}), "country: 'XX' has no calendar"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(make: Callable[[], Trigger], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: every("5s", jitter="5s"),
        lambda: every("5s", spread="1h"),  # moves all ticks alike
        lambda: cron("0 6 * * mon", jitter="2d"),
        lambda: every("1d", overlap="queue", queue_limit=5),
        lambda: every("1d", starts_at="2027-01-02T00:00Z", ends_at="2027-01-02T00:00Z"),
        lambda: every("1d", ends_at="9999-12-31T23:59:59Z"),
        lambda: trigger("at", at="2027-01-01T09:00Z", starts_at="2027-01-01T09:00Z", ends_at="2027-01-01T09:00Z"),
        lambda: cron("0 0 29 2 *", starts_at="2097-01-01T00:00Z"),  # eight years ahead
    ],
)
def test_what_can_be_meant_survives_its_plain_form(make: Callable[[], Trigger]) -> None:
    made = make()
    assert TRIGGER.validate_python(made.model_dump(mode="json")) == made


def test_the_seconds_stand_where_it_is_said() -> None:
    for made, fields in (
        (cron("0 6 * * mon"), ("0", "0", "6", "*", "*", "mon")),
        (cron("30 0 6 * * mon", seconds="first"), ("30", "0", "6", "*", "*", "mon")),
        (cron("0 6 * * mon 30", seconds="last"), ("30", "0", "6", "*", "*", "mon")),
    ):
        assert isinstance(made, Cron)
        assert made.fields == fields


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (cron("0 6 * * *"), False),
        (cron("0 0 6 * * *", seconds="first"), False),
        (cron("0 6 * * * 00", seconds="last"), False),
        (cron("*/5 * * * * *", seconds="first"), True),
        (cron("10 0 6 * * *", seconds="first"), True),
        (every("1m"), False),
        (every("90s"), True),
        (every("1h", offset="30s"), True),
        (trigger("at", at="2027-01-01T09:00:00Z"), False),
        (trigger("at", at="2027-01-01T09:00:01Z"), True),
        (trigger("event", event="push"), False),
    ],
)
def test_whether_a_trigger_is_to_the_second(made: Trigger, expected: bool) -> None:
    assert is_to_the_second(made) is expected
