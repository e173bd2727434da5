from typing import Any

import pytest

from agent_pipelines.core.task import TaskSpec
from agent_pipelines.insight.triggers import describe, remarks


def spec_with(trigger: dict[str, Any], **values: Any) -> TaskSpec:
    return TaskSpec.model_validate({"name": "job", "intent": "Work", "agent": "worker", "triggers": [trigger], **values})


@pytest.mark.parametrize(
    ("trigger", "words"),
    [
        ({"kind": "cron", "cron": "0 6 * * *"}, "cron 0 6 * * *"),
        ({"kind": "cron", "cron": "0 6 * * *", "timezone": "Europe/Berlin"}, "cron 0 6 * * * Europe/Berlin"),
        ({"kind": "interval", "every": "15m"}, "every 15m"),
        ({"kind": "interval", "every": "1h 30m"}, "every 90m"),
        ({"kind": "interval", "every": "90s"}, "every 90s"),
        ({"kind": "cron", "cron": "*/5 * * * * *", "seconds": "first"}, "cron */5 * * * * * (seconds first)"),
        (
            {"kind": "interval", "every": "2s", "calendar": {"country": "DE", "subdivision": "BY"}},
            "every 2s on business days of DE-BY",
        ),
        (
            {"kind": "interval", "every": "1d", "starts_at": "2027-01-01T00:00Z", "ends_at": "2027-12-31T00:00Z"},
            "every 1d from 2027-01-01T00:00Z until 2027-12-31T00:00Z",
        ),
        ({"kind": "at", "at": "2027-01-01T09:00:00+01:00"}, "at 2027-01-01T09:00:00+01:00"),
        ({"kind": "event", "event": "commit.pushed"}, "event commit.pushed"),
        ({"kind": "asset", "asset": "sales/orders"}, "asset sales/orders"),
        ({"kind": "after", "task": "other"}, "after other"),
        ({"kind": "after", "task": "other", "offset": "15m"}, "after other + 15m"),
    ],
)
def test_triggers_in_words(trigger: dict[str, Any], words: str) -> None:
    assert describe(spec_with(trigger).triggers[0]) == words


@pytest.mark.parametrize(
    ("trigger", "told"),
    [
        ({"kind": "interval", "every": "5m"}, []),
        ({"kind": "cron", "cron": "0 6 * * *"}, []),
        ({"kind": "at", "at": "2027-01-01T09:00:00+01:00"}, []),
        ({"kind": "event", "event": "push"}, []),
        (
            {"kind": "interval", "every": "5s"},
            [
                "Due every 5s, but an attempt may take up to 5m: with `overlap: skip` ticks are skipped while one is at work.",
            ],
        ),
        (
            {"kind": "cron", "cron": "0,1 6 * * *", "overlap": "skip"},
            [
                "Due as often as every 1m, but an attempt may take up to 5m: "
                "with `overlap: skip` ticks are skipped while one is at work.",
            ],
        ),
        (
            {"kind": "interval", "every": "10m", "spread": "1h", "jitter": "1m"},
            ["Due every 10m, but a tick begins up to 61m later: others are due before it begins."],
        ),
    ],
)
def test_what_may_surprise_is_told(trigger: dict[str, Any], told: list[str]) -> None:
    spec = spec_with(trigger)
    assert remarks(spec, spec.triggers[0]) == told


@pytest.mark.parametrize(
    ("overlap", "words"),
    [
        ("parallel", "several are at work at once"),
        ("queue", "up to 100 ticks wait while one is at work"),
        ("replace", "one that is at work is cancelled by the next"),
    ],
)
def test_what_becomes_of_overlapping_ticks_is_told(overlap: str, words: str) -> None:
    spec = spec_with({"kind": "interval", "every": "5s", "overlap": overlap}, timeout={"attempt": "6s"})
    (told,) = remarks(spec, spec.triggers[0])
    assert told.startswith("Due every 5s, but an attempt may take up to 6s: ")
    assert words in told
    quick = spec_with({"kind": "interval", "every": "5s", "overlap": overlap}, timeout={"attempt": "5s"})
    assert remarks(quick, quick.triggers[0]) == []
