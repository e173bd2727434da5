from collections.abc import Sequence
from typing import Any

import pytest

from agent_pipelines.core.calendar import Calendar
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.trigger import Cron, Interval
from agent_pipelines.engine.due import next_due
from agent_pipelines.engine.planner import INSTANTS, PUNCTUAL, AtWork, Plan, plan
from agent_pipelines.engine.revision import revision_of
from agent_pipelines.engine.triggers import StoredTrigger

SECOND = 1_000_000
MINUTE = 60 * SECOND
START = 1_767_225_600 * SECOND  # 2026-01-01T00:00:00Z


def trigger(definition: Any, looked_until: int = START, **more: Any) -> StoredTrigger:
    row = {
        "seq": 1,
        "workspace": "default",
        "application": "app",
        "task": "job",
        "trigger": "interval",
        "source": "declared",
        "definition": definition,
        "revision": revision_of(definition),
        "lane": "run",
        "priority": 0,
        "spec_hash": None,
        "state": "on",
        "reason": None,
        "since": START,
        "looked_until": looked_until,
        "next_due_at": next_due(definition, looked_until),
        "marks": {},
    }
    return StoredTrigger.model_validate({**row, **more})


def every(minutes: float, **fields: Any) -> Interval:
    return Interval(every=Duration(minutes * 60), **fields)


def told(found: Plan) -> list[tuple[int, str | None]]:
    """Minutes after the start, and the verdict, of each tick."""
    return [((tick.due_at - START) // MINUTE, tick.verdict and str(tick.verdict)) for tick in found.ticks]


def look(definition: Any, minutes: float, at_work: Sequence[AtWork] = ()) -> Plan:
    now = START + round(minutes * MINUTE)
    return plan(trigger(definition), now=now, until=now, at_work=at_work)


def test_what_is_due_in_time_begins() -> None:
    found = look(every(5), 5)
    assert told(found) == [(5, None)]
    assert found.move.looked_until == START + 5 * MINUTE
    assert found.move.next_due_at == START + 10 * MINUTE


def test_nothing_is_due_yet() -> None:
    found = look(every(5), 4.99)
    assert found.ticks == []
    assert found.move.next_due_at == START + 5 * MINUTE


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"catch_up": "none"}, [(5, "missed"), (10, "missed"), (15, "missed")]),
        ({"catch_up": "latest"}, [(5, "missed"), (10, "missed"), (15, None)]),
        ({"catch_up": "all", "overlap": "parallel"}, [(5, None), (10, None), (15, None)]),
        ({"catch_up": "all", "catch_up_within": "8m", "overlap": "parallel"}, [(5, "missed"), (10, None), (15, None)]),
        ({"catch_up": "latest", "catch_up_within": "1m"}, [(5, "missed"), (10, "missed"), (15, "missed")]),
    ],
)
def test_late_instants_are_caught_up_as_the_policy_says(policy: dict[str, Any], expected: list[tuple[int, str | None]]) -> None:
    found = look(every(5, **policy), 17)
    assert told(found) == expected
    assert all("catch_up" in (tick.reason or "catch_up") for tick in found.ticks)


def test_a_punctual_instant_is_newer_than_the_late_ones() -> None:
    found = look(every(5, catch_up="latest", overlap="parallel"), 15.05)
    assert told(found) == [(5, "missed"), (10, "missed"), (15, None)]


def test_instants_of_a_slow_look_are_not_late() -> None:
    definition = Interval(every=Duration(1), overlap="parallel", catch_up="none")
    now = START + PUNCTUAL
    assert [tick.verdict for tick in plan(trigger(definition), now=now, until=now).ticks] == [None] * 10


def test_a_clock_that_is_set_back_makes_nothing_due_again() -> None:
    looked = trigger(every(5), looked_until=START + 60 * MINUTE)
    found = plan(looked, now=START + 30 * MINUTE, until=START + 30 * MINUTE)
    assert found.ticks == []
    assert found.move.looked_until == START + 60 * MINUTE


def test_a_trigger_that_slept_for_long_is_decided_about_in_pieces() -> None:
    definition = Interval(every=Duration(1), overlap="parallel")
    now = START + (INSTANTS + 100) * SECOND
    first = plan(trigger(definition), now=now, until=now)
    assert len(first.ticks) == INSTANTS
    assert {tick.verdict for tick in first.ticks} == {Verdict.MISSED}, "a later one runs"
    rest = plan(trigger(definition, looked_until=first.move.looked_until), now=now, until=now)
    assert [tick.verdict for tick in rest.ticks].count(Verdict.MISSED) == 89
    assert [tick.verdict for tick in rest.ticks][-11:] == [None] * 11


AT_WORK = [AtWork("old", START, "execution x is at work", run_id="r", execution_id="x")]


def test_an_overlapping_tick_is_skipped_by_default() -> None:
    (tick,) = look(every(5), 5, AT_WORK).ticks
    assert (tick.verdict, tick.reason) == (Verdict.SKIPPED, "overlap: execution x is at work")


def test_an_overlapping_tick_can_be_queued_up_to_a_limit() -> None:
    (tick,) = look(every(5, overlap="queue"), 5, AT_WORK).ticks
    assert (tick.verdict, tick.waits_for) == (None, "old")
    line = [*AT_WORK, AtWork("next", START + 1, "the tick of 5 is queued")]
    (tick,) = look(every(5, overlap="queue", queue_limit=1), 5, line).ticks
    assert tick.verdict is Verdict.SKIPPED
    assert "1 ticks are queued already" in (tick.reason or "")


def test_the_limit_of_a_queue_leaves_out_the_tick_that_nothing_keeps_waiting() -> None:
    found = look(every(5, overlap="queue", queue_limit=1, catch_up="all"), 15)
    assert [tick.verdict for tick in found.ticks] == [None, None, Verdict.SKIPPED]


def test_one_that_is_claimed_ahead_waits_for_the_one_at_work_until_it_is_due() -> None:
    definition = every(5)
    found = plan(trigger(definition), now=START + 5 * MINUTE - SECOND, until=START + 5 * MINUTE, at_work=AT_WORK)
    assert [(tick.verdict, tick.waits_for) for tick in found.ticks] == [(None, "old")]


def test_as_many_late_instants_as_one_look_decides_about_are_all_that_there_were() -> None:
    definition = Interval(every=Duration(60))
    found = plan(trigger(definition), now=START + INSTANTS * MINUTE + 30 * SECOND, until=START + INSTANTS * MINUTE + 30 * SECOND)
    assert len(found.ticks) == INSTANTS
    assert found.ticks[-1].verdict is None, "the latest is caught up, for no look follows that would do it"


def test_several_queued_ticks_form_a_line() -> None:
    found = look(every(5, overlap="queue", catch_up="all"), 15)
    assert [tick.waits_for for tick in found.ticks] == [None, found.ticks[0].id, found.ticks[1].id]


def test_the_old_one_makes_way_if_it_is_replaced() -> None:
    found = look(every(5, overlap="replace"), 5, AT_WORK)
    assert found.replaced == AT_WORK
    assert found.ticks[0].waits_for == "old"


def test_days_that_the_calendar_leaves_out_are_skipped_and_not_caught_up() -> None:
    definition = Cron(cron="0 12 * * *", calendar=Calendar(country="DE"))
    now = START + 3 * 24 * 60 * MINUTE
    found = plan(trigger(definition), now=now, until=now)
    assert [tick.verdict for tick in found.ticks] == [Verdict.SKIPPED, None, Verdict.SKIPPED], "holiday, Friday, Saturday"
    assert "holiday in DE" in (found.ticks[0].reason or "")


def test_a_tick_says_why_and_when_it_begins() -> None:
    (tick,) = look(every(5, spread="2m", catch_up="all"), 7).ticks
    assert START + 5 * MINUTE <= tick.begins_at < START + 7 * MINUTE
    assert tick.inputs["catch_up"] == "all"
    assert tick.inputs["caught_up_at"] == START + 7 * MINUTE
