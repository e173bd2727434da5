import threading
from typing import Any

import pytest

from agent_pipelines.core.clock import ManualClock, isoformat
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.trigger import At, Cron
from agent_pipelines.engine.planner import Plan
from agent_pipelines.engine.timekeeper import AHEAD
from agent_pipelines.engine.triggers import StoredTrigger
from agent_pipelines.store.database import Database
from agent_pipelines_tests.engine.keeping import SECOND, TASK, Keeper, every


@pytest.fixture
def keeper(database: Database, clock: ManualClock) -> Keeper:
    return Keeper(database, clock)


def test_each_due_instant_is_claimed_once_at_its_time(keeper: Keeper) -> None:
    keeper.put(every(5, overlap="parallel"))
    assert keeper.look(4.9).claimed == []
    assert [tick.due_at for tick in keeper.look(5).claimed] == [keeper.start + 5 * SECOND]
    assert keeper.look(5).claimed == []
    assert len(keeper.look(10.1).claimed) == 1
    assert keeper.told() == [(5, None), (10, None)]


def test_ticks_of_bursts_are_claimed_a_second_ahead(keeper: Keeper) -> None:
    keeper.put(every(5), lane="burst")
    assert keeper.timekeeper.following(within=10 * SECOND).at == keeper.start + 5 * SECOND - AHEAD
    (tick,) = keeper.look(4).claimed
    assert (tick.due_at, tick.lane) == (keeper.start + 5 * SECOND, "burst")


def test_two_that_look_at_once_claim_each_instant_once(keeper: Keeper) -> None:
    for number in range(50):
        keeper.put(every(1, overlap="parallel"), ("default", "app", f"job{number}"))
    keeper.clock.time = keeper.start + 3 * SECOND
    looks: list[int] = []

    def look() -> None:
        looks.append(len(keeper.timekeeper.look().claimed))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(looks) == 150
    assert len(keeper.all()) == 150


def test_one_that_was_suspended_claims_nothing_that_its_successor_has_claimed(keeper: Keeper) -> None:
    keeper.put(every(5, overlap="parallel", catch_up="all"))
    with keeper.database.reading() as connection:
        read_before = keeper.triggers.due(connection, run_until=keeper.start + 20 * SECOND, burst_until=0)
    keeper.look(20)
    plans = [keeper.timekeeper._plan(trigger, keeper.clock.now(), {}) for trigger in read_before]  # pyright: ignore[reportPrivateUsage]
    with keeper.database.transaction() as connection:
        assert keeper.ticks.claim_many(connection, [tick for plan in plans for tick in plan.ticks]) == set()
        keeper.triggers.advance(connection, (plan.move for plan in plans))
    assert len(keeper.all()) == 4


def test_one_that_is_switched_off_during_a_look_claims_nothing_after_that(keeper: Keeper) -> None:
    keeper.put(every(5), lane="burst")
    plan = keeper.timekeeper._plan  # pyright: ignore[reportPrivateUsage]

    def switched_off_meanwhile(trigger: StoredTrigger, now: int, at_work: Any) -> Plan:
        keeper.put(every(5), lane="burst", state="off")
        return plan(trigger, now, at_work)

    keeper.timekeeper._plan = switched_off_meanwhile  # type: ignore[method-assign]
    assert keeper.look(4.5).claimed == []
    assert keeper.all() == []


def test_a_clock_set_back_by_an_hour_fires_nothing_twice(keeper: Keeper) -> None:
    keeper.put(every(600, overlap="parallel"))
    keeper.look(3_600)
    before = keeper.told()
    assert keeper.look(60).claimed == []
    assert keeper.look(3_599).claimed == []
    assert keeper.told() == before
    assert len(keeper.look(4_200).claimed) == 1


def test_a_clock_set_forward_by_an_hour_leaves_no_instant_out(keeper: Keeper) -> None:
    keeper.put(every(600, overlap="parallel"))
    keeper.look(600)
    keeper.look(4_230)
    assert keeper.told() == [(600, None), *((600 * n, "missed") for n in range(2, 7)), (4_200, None)]


def test_an_instant_is_due_once_and_then_never(keeper: Keeper) -> None:
    keeper.put(At(at=isoformat(keeper.start + 7 * SECOND)))
    assert len(keeper.look(8).claimed) == 1
    assert keeper.timekeeper.following().at is not None, "it waits for its run"
    with keeper.database.transaction() as connection:
        keeper.ticks.take(connection, lane="run", until=keeper.clock.now(), limit=1)
    assert keeper.timekeeper.following().at is None


def test_an_instant_that_had_passed_when_it_was_declared_is_not_due(keeper: Keeper) -> None:
    keeper.put(At(at=isoformat(keeper.start - SECOND)))
    assert keeper.look(100).claimed == []


def test_a_tick_is_skipped_while_the_one_before_it_is_at_work(keeper: Keeper) -> None:
    keeper.put(every(5))
    keeper.look(5)
    keeper.look(10)
    running = keeper.begin(keeper.all()[0])
    keeper.look(15)
    keeper.end(running)
    keeper.look(20)
    assert keeper.told() == [(5, "ran"), (10, "skipped"), (15, "skipped"), (20, None)]
    reasons = [tick.reason for tick in keeper.all()]
    assert "waits for a run" in (reasons[1] or "")
    assert f"execution {running.id}" in (reasons[2] or "")


def test_queued_ticks_go_ahead_one_by_one(keeper: Keeper) -> None:
    keeper.put(every(5, overlap="queue"))
    keeper.look(5)
    running = keeper.begin(keeper.all()[0])
    keeper.look(10)
    keeper.look(15)
    assert [bool(tick.waits_for) for tick in keeper.all()] == [False, True, True]
    keeper.end(running)
    assert keeper.look(15.1).went_ahead == 1
    second = keeper.begin(keeper.all()[1])
    assert keeper.look(15.2).went_ahead == 0, "the second is at work"
    keeper.end(second)
    assert keeper.look(15.3).went_ahead == 1


def test_a_tick_of_a_burst_is_not_skipped_for_one_that_ends_before_it_is_due(keeper: Keeper) -> None:
    keeper.put(every(1), lane="burst")
    keeper.look(0)
    running = keeper.begin(keeper.all()[0])
    keeper.look(1)
    keeper.end(running)
    keeper.look(1.2)
    first, second = keeper.all()
    assert (second.verdict, second.waits_for, second.begins_at) == (None, None, first.due_at + SECOND), "not before it is due"


def test_a_tick_of_a_burst_is_skipped_once_it_is_due_while_the_one_before_it_is_at_work(keeper: Keeper) -> None:
    keeper.put(every(1), lane="burst")
    keeper.look(0)
    running = keeper.begin(keeper.all()[0])
    keeper.look(1)
    assert keeper.timekeeper.following().asks_for_look(keeper.clock.now())
    keeper.look(2)
    keeper.look(2.5)
    assert keeper.told() == [(1, "ran"), (2, "skipped"), (3, None)]
    assert keeper.all()[2].waits_for == keeper.all()[0].id
    keeper.end(running)
    keeper.look(2.7)
    assert keeper.all()[2].waits_for is None


def test_a_queued_tick_does_not_begin_before_its_spread_is_over(keeper: Keeper) -> None:
    keeper.put(every(60, overlap="queue", spread=Duration(50)))
    keeper.look(60)
    keeper.look(120)
    first, second = keeper.all()
    with keeper.database.transaction() as connection:
        keeper.ticks.decide(connection, TASK, first.trigger, first.occurrence, Verdict.LAUNCH_FAILED, reason="gone")
    keeper.look(120.1)
    assert keeper.all()[1].waits_for is None
    assert keeper.all()[1].begins_at == second.begins_at > second.due_at


def test_what_waits_for_something_that_is_gone_goes_ahead(keeper: Keeper) -> None:
    keeper.put(every(5, overlap="queue"))
    keeper.look(5)
    keeper.look(10)
    first, _ = keeper.all()
    with keeper.database.transaction() as connection:
        keeper.ticks.decide(connection, TASK, first.trigger, first.occurrence, Verdict.LAUNCH_FAILED, reason="gone")
    assert keeper.look(10.1).went_ahead == 1


def test_a_replaced_run_is_to_be_cancelled_and_the_new_one_waits_for_its_end(keeper: Keeper) -> None:
    keeper.put(every(5, overlap="replace"))
    keeper.look(5)
    running = keeper.begin(keeper.all()[0])
    look = keeper.look(10)
    assert look.replaced_runs == [running.run_id]
    assert keeper.all()[1].waits_for == keeper.all()[0].id
    keeper.end(running)
    assert keeper.look(10.2).went_ahead == 1


def test_a_replaced_execution_of_a_burst_is_cancelled_in_the_record(keeper: Keeper) -> None:
    keeper.put(every(5, overlap="replace"), lane="burst")
    keeper.look(5)
    running = keeper.begin(keeper.all()[0])
    keeper.look(10)
    assert [execution for execution, _ in keeper.executions.cancelled] == [running.id]


def test_a_replaced_tick_that_had_not_begun_is_skipped(keeper: Keeper) -> None:
    keeper.put(every(5, overlap="replace"))
    keeper.look(5)
    keeper.look(10)
    assert keeper.told() == [(5, "skipped"), (10, None)]
    assert keeper.look(10.1).went_ahead == 1


def test_an_edit_never_fires_the_past(keeper: Keeper) -> None:
    keeper.put(every(60))
    keeper.clock.time = keeper.start + 150 * SECOND
    keeper.put(every(7))
    keeper.look(158)
    assert keeper.told() == [(60, "missed"), (120, "missed"), (154, None)] or keeper.told()[:2] == [
        (60, "missed"),
        (120, "missed"),
    ]
    assert all(due > 150 for due, verdict in keeper.told() if verdict is None)
    assert "edited by kim" in (keeper.all()[0].reason or "")


def test_an_edit_of_a_policy_goes_on_where_it_was(keeper: Keeper) -> None:
    keeper.put(every(60))
    keeper.clock.time = keeper.start + 61 * SECOND
    keeper.put(every(60, overlap="queue"))
    assert len(keeper.look(61.5).claimed) == 1


@pytest.mark.parametrize("state", ["off", "paused"])
def test_what_is_not_on_is_not_due_and_not_caught_up(keeper: Keeper, state: str) -> None:
    keeper.put(every(60))
    keeper.put(every(60), state=state, reason="holidays")
    assert keeper.look(300).claimed == []
    keeper.put(every(60))
    assert keeper.look(359).claimed == []
    assert len(keeper.look(360).claimed) == 1


def test_what_was_claimed_ahead_is_withdrawn_by_a_pause(keeper: Keeper) -> None:
    keeper.put(every(5), lane="burst")
    keeper.look(4.5)
    keeper.put(every(5), lane="burst", state="paused", reason="too loud")
    assert keeper.all() == []


def test_what_was_withdrawn_by_an_edit_may_be_due_again(keeper: Keeper) -> None:
    keeper.put(every(5), lane="burst")
    keeper.look(4.5)
    keeper.put(every(5, offset=0, ends_at="2030-01-01T00:00:00+00:00"), lane="burst")
    keeper.look(4.6)
    assert keeper.told() == [(5, None)]


def test_many_triggers_of_the_same_second(keeper: Keeper) -> None:
    with keeper.database.transaction() as connection:
        for number in range(2_500):
            keeper.triggers.put(
                connection,
                ("default", "app", f"job{number}"),
                every(60),
                source="registered",
                state="on",
                actor="kim",
                lane="burst",
            )
    first = keeper.look(60)
    assert first.is_behind
    second = keeper.look(60)
    assert len(first.claimed) + len(second.claimed) == 2_500
    assert len({(tick.task, tick.due_at) for tick in keeper.all()}) == 2_500


def test_after_a_long_time_away_no_look_claims_all_that_was_missed(keeper: Keeper) -> None:
    for number in range(12):
        keeper.put(every(1), ("default", "app", f"job{number}"))
    looks = [keeper.look(3_000)]
    while looks[-1].is_behind:
        looks.append(keeper.look(3_000))
    decided = [len(look.decided) + len(look.claimed) for look in looks]
    assert max(decided) < 15_000
    assert sum(decided) == 12 * 3_000
    with keeper.database.reading() as connection:
        assert sum(1 for _ in keeper.ticks.due(connection, after=0, until=keeper.clock.now())) == 12 * 3_000


def test_the_order_in_which_ticks_are_taken_is_that_of_priority_and_time(keeper: Keeper) -> None:
    keeper.put(every(60), ("default", "app", "batch"), priority=-10, lane="burst")
    keeper.put(every(60), ("default", "app", "b_normal"), lane="burst")
    keeper.put(every(60), ("default", "app", "a_normal"), lane="burst")
    keeper.put(every(60, offset=30), ("default", "app", "interactive"), priority=50, lane="burst")
    keeper.look(90)
    with keeper.database.transaction() as connection:
        taken = keeper.ticks.take(connection, lane="burst", until=keeper.clock.now(), limit=3, run_id="r1")
        rest = keeper.ticks.take(connection, lane="burst", until=keeper.clock.now(), limit=9, run_id="r2")
    assert [tick.task for tick in taken] == ["interactive", "a_normal", "b_normal"]
    assert [(tick.task, tick.run_id) for tick in rest] == [("batch", "r2")]


def test_a_cron_to_the_second(keeper: Keeper) -> None:
    keeper.put(Cron(cron="*/20 * * * * *", seconds="first", overlap="parallel"))
    keeper.look(61)
    assert [due for due, _ in keeper.told()] == [20, 40, 60]
