from pathlib import Path
from typing import Any

import pytest

from examples.agents.facts import BadFactsError
from examples.agents.report_writer import ReportFacts, ReportWriter
from examples.agents.toolbox import Toolbox

ROWS = [
    {
        "task": "a/x",
        "status": "succeeded",
        "duration_seconds": 1.0,
        "total_tokens": 100,
        "attempts": 1,
        "summary": "All is well.",
    },
    {
        "task": "a/x",
        "status": "succeeded",
        "duration_seconds": 3.0,
        "total_tokens": 300,
        "attempts": 2,
        "summary": "All is well.",
    },
    {"task": "a/x", "status": "failed", "error_class": "timeout", "error_message": "took\ntoo long", "node": "left"},
    {"task": "b/y", "status": "skipped", "duration_seconds": None, "total_tokens": None},
    {"task": "b/y", "status": "succeeded", "duration_seconds": 240.0, "total_tokens": 1_000, "cost_usd": 0.5},
]


def report(**facts: Any) -> str:
    agent = ReportWriter(Path("unused"))
    return agent.work(ReportFacts.model_validate(facts), Toolbox(agent.tools()))


def test_the_report_adds_up() -> None:
    text = report(executions=ROWS, logical_time="2026-03-05T23:30:00Z", timezone="Europe/Berlin")

    assert text == (
        "# Morning report, 2026-03-06\n\n"
        "In the last 24 hours 5 executions of 2 tasks in the record: 1 failed, 1 skipped, 3 succeeded. "
        "75.0% of those that ended did so well. They used 1,400 tokens and 0.5000 USD. The longest took 4.0 min (b/y).\n\n"
        "## By task\n\n"
        "| Task | Succeeded | Failed | Other | Retried | Median | Longest | Tokens |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| a/x | 2 | 1 | 0 | 1 | 2.0 s | 3.0 s | 400 |\n"
        "| b/y | 1 | 0 | 1 | 0 | 4.0 min | 4.0 min | 1,000 |\n\n"
        "## Failures\n\n"
        "- a/x: timeout, took too long\n\n"
        "## What the agents found\n\n"
        "- a/x: All is well.\n"
    )


def test_a_night_without_work_is_told_so() -> None:
    assert report(executions=[], day="2026-03-05") == "# Morning report, 2026-03-05\n\nIn the last 24 hours nothing ran.\n"


def test_the_report_says_what_it_has_read() -> None:
    text = report(executions=ROWS[:1], day="2026-03-06", hours=12, until="2026-03-06T05:55:00Z", left_out=7)

    assert "\n\nIn the 12 hours before 2026-03-06T05:55:00Z 1 execution of 1 task in the record" in text
    assert "At least 7 older ones are not in this report." in text


def test_executions_that_all_wait_have_no_times() -> None:
    text = report(executions=[{"task": "a/x", "status": "running"}], day="2026-03-05")

    assert "| a/x | 0 | 0 | 1 | 0 | - | - | 0 |" in text
    assert "did so well" not in text


def test_a_day_is_needed() -> None:
    with pytest.raises(BadFactsError, match="name no day"):
        report(executions=[])
