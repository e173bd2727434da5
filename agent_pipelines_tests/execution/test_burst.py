import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from agent_pipelines.core.clock import ManualClock, SystemClock
from agent_pipelines.core.errors import ErrorClass, StorageError
from agent_pipelines.core.execution import Status, Verdict
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Origin
from agent_pipelines.engine.burst_settings import BurstSettings
from agent_pipelines.execution import intake
from agent_pipelines.execution.burst import Ended
from agent_pipelines.hub import Hub
from agent_pipelines.runtimes.fake import FakeRuntime
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.store.database import Database
from agent_pipelines_tests.execution import killed_burst
from agent_pipelines_tests.execution.bursting import (
    SETTINGS,
    Counting,
    claim,
    executions,
    register,
    spec,
    verdicts,
    worker,
)

GATE = "agent_pipelines_tests.execution.burst_checks:closed"
CHECK = "agent_pipelines_tests.execution.burst_checks:is_good"
REFERENCES = {"references": {GATE, CHECK}}


@pytest.fixture
def hub(database: Database) -> Hub:
    return Hub(database, SystemClock())


def test_two_hundred_ticks_and_what_goes_wrong_with_a_quarter_harms_no_other(hub: Hub) -> None:
    register(hub, *(spec(f"good{number}") for number in range(150)))
    register(hub, *(spec(f"hang{number}", timeout={"attempt": 0.2}) for number in range(10)))
    register(hub, *(spec(f"raise{number}") for number in range(10)))
    register(hub, *(spec(f"gated{number}", gate=GATE) for number in range(10)))
    register(hub, *(spec(f"bad{number}", checks=[{"name": "good", "python": CHECK}]) for number in range(10)))
    register(hub, *(spec(f"lost{number}", agent="nobody") for number in range(10)))
    runtime = Counting()
    told: list[Ended] = []
    burst = worker(hub, runtime, declared=REFERENCES, tell=told.append)
    asyncio.run(burst.work())
    assert verdicts(hub) == {"ran": 180, "skipped": 10, "launch_failed": 10}
    ended = Counter((each.status, each.error_class) for each in executions(hub))
    assert ended == {
        (Status.SUCCEEDED, None): 150,
        (Status.FAILED, ErrorClass.TIMEOUT): 10,
        (Status.FAILED, ErrorClass.INTERNAL): 10,
        (Status.FAILED, ErrorClass.CHECK): 10,
        (Status.SKIPPED, None): 10,
    }
    assert runtime.most == 20
    assert runtime.closed == 1
    assert (burst.done, burst.failed, len(told)) == (200, 40, 200)


def test_specifications_that_are_no_longer_at_hand_are_read_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_SPECS", 2)
    now = hub.clock.now()
    for number in range(30):
        register(hub, spec(f"job{number % 7}"), due_at=now - 1_000 + number)
    asyncio.run(worker(hub, Counting(), settings=SETTINGS.model_copy(update={"in_flight": 4})).work())
    assert verdicts(hub) == {"ran": 30}


def test_each_execution_names_the_burst_and_its_own_partition(hub: Hub) -> None:
    register(hub, spec())
    asyncio.run(worker(hub, Counting(), run_id="the-burst").work())
    (execution,) = executions(hub)
    assert (execution.run_id, execution.job, execution.partition) == ("the-burst", "burst", "app/job")
    with hub.database.reading() as connection:
        assert hub.bursts.live(connection) == []


def test_the_most_urgent_goes_first_then_who_is_due_first(hub: Hub) -> None:
    now = hub.clock.now()
    for name, priority, due in (("c", 0, 3), ("a", 0, 1), ("urgent", 50, 4), ("b", 0, 2), ("later", -1, 0)):
        register(hub, spec(name, priority=priority), due_at=now - 1_000_000 + due)
    runtime = Counting()
    settings = SETTINGS.model_copy(update={"in_flight": 1})
    asyncio.run(worker(hub, runtime, settings=settings).work())
    assert runtime.tasks == ["urgent", "a", "b", "c", "later"]
    assert runtime.most == 1


def test_a_tick_is_taken_ahead_and_begins_on_its_instant(hub: Hub) -> None:
    due = hub.clock.now() + 700_000
    register(hub, spec(), due_at=due)
    asyncio.run(worker(hub, Counting()).work())
    (execution,) = executions(hub)
    assert execution.created_at >= due
    assert verdicts(hub) == {"ran": 1}


def test_what_lies_further_ahead_is_left_to_others(hub: Hub) -> None:
    register(hub, spec(), due_at=hub.clock.now() + 60_000_000)
    asyncio.run(worker(hub, Counting()).work())
    assert verdicts(hub) == {"None": 1}


def test_a_declared_task_is_executed_as_the_code_location_declares_it(hub: Hub) -> None:
    task = spec("declared", variables={"colour": "red"})
    with hub.database.transaction() as connection:
        claim(hub, connection, task)
        claim(hub, connection, spec("gone"))
    runtime = Counting()
    asyncio.run(worker(hub, runtime, declared={"tasks": {task.key: task}}).work())
    assert runtime.asked[0].variables == {"colour": "red"}
    assert executions(hub)[0].partition is None
    with hub.database.reading() as connection:
        gone = hub.ticks.list(connection, task="gone")[0]
    assert (gone.verdict, gone.reason) == (Verdict.LAUNCH_FAILED, "task app/gone is not declared any more")


def test_reasons_why_a_tick_cannot_be_executed(hub: Hub) -> None:
    event = spec("event", triggers=[{"kind": "event", "name": "each", "event": "x", "variables": {"y": "{{ event.y }}"}}])
    register(hub, spec("agent", agent="nobody"), spec("gate", gate=GATE), spec("check", checks=[{"name": "c", "python": CHECK}]))
    register(hub, event, inputs={"event_id": "no-such-event"}, origin=Origin.EVENT, occurrence="e1")
    with hub.database.transaction() as connection:
        claim(hub, connection, spec("unknown"), spec_hash="0" * 64)
        event_id, _ = hub.inbox.put(connection, "x", {"z": 1})
    register(hub, event, inputs={"event_id": event_id}, origin=Origin.EVENT, occurrence=event_id)
    runtime = Counting()
    asyncio.run(worker(hub, runtime).work())
    with hub.database.reading() as connection:
        reasons = {(tick.task, tick.verdict): tick.reason or "" for tick in hub.ticks.list(connection)}
        events = [tick.reason or "" for tick in hub.ticks.list(connection, task="event")]
    assert reasons["agent", Verdict.LAUNCH_FAILED] == "agent 'nobody' is not declared any more; there is: worker"
    assert reasons["gate", Verdict.LAUNCH_FAILED] == f"gate: no declared task names {GATE!r} any more"
    assert reasons["check", Verdict.LAUNCH_FAILED] == f"checks[0].python: no declared task names {CHECK!r} any more"
    assert reasons["unknown", Verdict.LAUNCH_FAILED] == f"there is no specification {'0' * 64}"
    assert "event no-such-event is not in the inbox" in events
    assert any("y" in reason and "triggers.each.variables" in reason for reason in events)
    assert runtime.asked == []


def test_variables_of_the_event_and_of_the_launch_reach_the_agent(hub: Hub) -> None:
    task = spec(triggers=[{"kind": "event", "name": "each", "event": "x", "variables": {"y": "{{ event.y }}"}}])
    with hub.database.transaction() as connection:
        event_id, _ = hub.inbox.put(connection, "x", {"y": 7})
    inputs = {"event_id": event_id, "variables": {"z": 8}}
    register(hub, task, inputs=inputs, origin=Origin.EVENT, occurrence=event_id)
    runtime = Counting()
    asyncio.run(worker(hub, runtime).work())
    assert runtime.asked[0].variables == {"y": 7, "z": 8}
    assert runtime.asked[0].event == {"y": 7}


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def test_cancelled_it_settles_what_is_in_flight_and_gives_back_the_rest(hub: Hub) -> None:
    register(hub, *(spec(f"hang{number}") for number in range(5)))
    register(hub, *(spec(f"soon{number}") for number in range(3)), due_at=hub.clock.now() + 60_000_000)
    runtime = Counting()
    burst = worker(hub, runtime)

    async def cancel() -> None:
        working = asyncio.create_task(burst.work())
        await until(lambda: runtime.at_once == 5)
        with hub.database.transaction() as connection:  # in hand, and not begun
            hub.ticks.take(connection, lane="burst", run_id=burst.run_id, until=2**62, limit=3)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working

    asyncio.run(cancel())
    assert {each.status for each in executions(hub)} == {Status.CANCELLED}
    assert verdicts(hub) == {"ran": 5, "None": 3}
    with hub.database.reading() as connection:
        assert hub.ticks.backlog(connection, workspace="default", until=2**62) == 3
        assert hub.bursts.live(connection) == []
    assert (burst.done, burst.failed) == (5, 5)


def test_an_execution_that_somebody_else_closes_is_stopped(hub: Hub) -> None:
    """As the clock does for `overlap: replace`."""
    register(hub, spec("hang"), spec("other"))
    runtime = Counting()

    async def replace() -> None:
        working = asyncio.create_task(worker(hub, runtime).work())
        await until(lambda: runtime.at_once == 1 and "other" in runtime.tasks)
        hanging = next(each for each in executions(hub) if each.task == "hang")
        with hub.database.transaction() as connection:
            hub.executions.cancel(connection, hanging.id, "replaced")
        await working

    asyncio.run(replace())
    assert {each.task: each.status for each in executions(hub)} == {"hang": Status.CANCELLED, "other": Status.SUCCEEDED}
    assert next(each for each in executions(hub) if each.task == "hang").error_message == "replaced"


def test_a_tick_that_two_bursts_hold_is_executed_once(hub: Hub) -> None:
    """The first was taken for dead, and was not."""
    (tick,) = register(hub, spec())
    first, second = Counting(), Counting()

    async def both() -> None:
        one = worker(hub, first, run_id="one")
        prepared, _ = await one.intake.take(hub.clock.now(), 5)
        with hub.database.transaction() as connection:
            assert hub.ticks.give_back(connection, "one") == 1
        await worker(hub, second, run_id="two").work()
        one.put(prepared)
        await one.work()
        assert (one.done, one.failed) == (1, 0)

    asyncio.run(both())
    assert (len(first.asked), len(second.asked)) == (0, 1)
    (execution,) = executions(hub)
    assert (execution.run_id, execution.status) == ("two", Status.SUCCEEDED)
    with hub.database.reading() as connection:
        assert [entry.kind for entry in hub.ledger.journal.read(connection, execution.id)].count("duplicate_run") == 1
        assert hub.ticks.by_ids(connection, [tick.id])[tick.id].run_id == "two"


class Unreliable(Database):
    """Refuses writes for a while."""

    refused = 0

    def submit(self, operation):  # type: ignore[no-untyped-def]
        if self.refused > 0:
            self.refused -= 1
            raise StorageError("the server is restarting")
        return super().submit(operation)


def test_a_database_that_fails_for_a_while_loses_nothing(database: Database) -> None:
    unreliable = Unreliable(database.url.render_as_string(hide_password=False))
    hub = Hub(unreliable, SystemClock())
    register(hub, *(spec(f"good{number}") for number in range(30)))
    runtime = Counting(0.05)

    async def restart() -> None:
        working = asyncio.create_task(worker(hub, runtime).work())
        await until(lambda: runtime.at_once > 5)
        unreliable.refused = 22
        await working

    asyncio.run(restart())
    unreliable.close()
    assert verdicts(hub) == {"ran": 30}
    # One that had been admitted, and no agent asked, goes on by itself.
    assert {each.status for each in executions(hub)} <= {Status.SUCCEEDED, Status.FAILED, Status.WAITING}
    with hub.database.reading() as connection:
        for each in executions(hub):
            assert (each.status is Status.WAITING) == (hub.executions.waits.unsettled(connection, each.id) is not None)
    assert {each.error_class for each in executions(hub)} <= {None, ErrorClass.UNKNOWN_OUTCOME, ErrorClass.INTERNAL}
    assert max(Counter(runtime.tasks).values()) == 1


def test_a_database_that_stays_away_ends_the_burst(database: Database) -> None:
    unreliable = Unreliable(database.url.render_as_string(hide_password=False))
    hub = Hub(unreliable, ManualClock())
    burst = worker(hub, Counting(), settings=BurstSettings.model_validate({"idle": 10}))

    async def go_away() -> None:
        working = asyncio.create_task(burst.work())
        await asyncio.sleep(0)
        unreliable.refused = 10**9
        await working

    with pytest.raises(StorageError, match="restarting"):
        asyncio.run(go_away())
    unreliable.close()


def test_a_burst_without_work_ends_after_a_while_unless_something_is_due_soon(database: Database) -> None:
    hub = Hub(database, ManualClock())
    start = hub.clock.now()
    settings = BurstSettings.model_validate({"idle": 10, "ahead": 5})
    asyncio.run(worker(hub, Counting(), settings=settings).work())
    assert 10_000_000 <= hub.clock.now() - start < 12_000_000


def test_a_burst_does_not_sleep_through_a_clock_that_is_set_back(database: Database) -> None:
    class SetBack(ManualClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if len(self.sleeps) == 5:
                self.time -= 3_600_000_000

    clock = SetBack()
    asyncio.run(worker(Hub(database, clock), Counting(), settings=BurstSettings.model_validate({"idle": 10})).work())
    assert max(clock.sleeps) <= 1
    assert sum(clock.sleeps) < 20


def test_a_burst_that_is_old_takes_no_further_ticks(database: Database) -> None:
    hub = Hub(database, ManualClock())
    settings = BurstSettings.model_validate({"idle": 1_000, "age": 30})
    start = hub.clock.now()
    asyncio.run(worker(hub, Counting(), settings=settings, run_id=new_id()).work())
    assert 30_000_000 <= hub.clock.now() - start < 32_000_000


def test_every_burst_has_its_share_of_the_limit() -> None:
    assert BurstSettings().share == 50
    assert BurstSettings(runs=3, in_flight=2).share == 1


@pytest.mark.parametrize("boundary", ["take", "admit", "settle"])
def test_killed_at_any_boundary_the_next_burst_finishes_and_nothing_is_done_twice(
    hub: Hub, boundary: str, tmp_path: Path
) -> None:
    register(hub, *(spec(f"task{number}") for number in range(30)))
    notes = tmp_path / "notes"
    arguments = [hub.database.url.render_as_string(hide_password=False), "killed", boundary, str(notes)]
    killed = subprocess.run([sys.executable, "-m", killed_burst.__name__, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    with hub.database.transaction() as connection:  # as the keeper of the bursts and the reconciler do
        given_back = hub.ticks.give_back(connection, "killed")
        lost = [each.id for each in hub.executions.unfinished(connection)]
        closed = [each for each in lost if hub.executions.close_lost(connection, each, "killed")]
    assert given_back > 0 if boundary == "take" else lost
    asyncio.run(worker(hub, killed_burst.Noting(notes), run_id="next").work())
    assert verdicts(hub) == {"ran": 30}
    ended = Counter(each.status for each in executions(hub))
    # Where no agent had been asked, it goes on by itself.
    assert ended == Counter(
        {Status.SUCCEEDED: 30 - len(lost), Status.FAILED: len(closed), Status.WAITING: len(lost) - len(closed)}
    )
    asked = Counter(notes.read_text().split())
    assert max(asked.values()) == 1
    assert len(asked) >= 30 - len(lost)


def test_a_fallback_is_asked_in_a_burst_too(hub: Hub) -> None:
    register(hub, spec("raise_it", fallback=[{"agent": "spare", "errors": ["internal"]}]))
    main, spare = Counting(), FakeRuntime(script=["from b"])
    agents = {name: partial(Agent, name, [Node("n", each)]) for name, each in (("worker", main), ("spare", spare))}
    asyncio.run(worker(hub, declared={"agents": agents}).work())
    (execution,) = executions(hub)
    assert (execution.text, execution.agent, execution.fallback_from) == ("from b", "spare", "worker")


def test_a_fallback_that_is_not_declared_any_more_is_told(hub: Hub) -> None:
    register(hub, spec(fallback=[{"agent": "gone"}]))
    asyncio.run(worker(hub, Counting()).work())
    assert verdicts(hub) == {"launch_failed": 1}
