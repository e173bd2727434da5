import pytest

from agent_pipelines.core.batch import BatchStatus
from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import IllegalTransition
from agent_pipelines.core.execution import Verdict
from agent_pipelines.engine.tick import MERGE, REPAIR
from agent_pipelines.execution.batch.verbs import NotPossible
from agent_pipelines.store.database import Database
from agent_pipelines_tests.execution.batch.splitting import Splitted


def test_a_cancelled_batch_is_resumed_where_it_stood(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 3, concurrency=1)
    verbs = split.hub.batch_verbs
    split.advance()
    split.end(0, split.begin(split.ticks()[0]))
    run_id = split.begin(split.ticks()[1])
    assert verbs.cancel(split.id, actor="kim") == [run_id]
    assert (split.status, split.shards()) == (BatchStatus.CANCELLED, ["succeeded", "cancelled", "cancelled"])
    assert (split.execution_status(), split.asked()) == ("cancelled", [])
    with pytest.raises(NotPossible, match="has ended"):
        verbs.cancel(split.id, actor="kim")
    assert verbs.resume(split.id, actor="kim") == 2
    assert (split.status, split.execution_status(), split.asked()) == (BatchStatus.RUNNING, "waiting", [[1]])
    with pytest.raises(NotPossible, match="nothing to be carried on"):
        verbs.resume(split.id, actor="kim")
    with database.reading() as connection:
        noted = split.hub.audit.list(connection, object="app/audit")
    assert [(entry.action, entry.actor) for entry in noted] == [("batch.resume", "kim"), ("batch.cancel", "kim")]


def test_the_failed_items_of_a_failed_batch_are_done_again(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 2)
    split.advance()
    first, second = split.ticks()
    split.end(0, split.begin(first))
    split.end(1, split.begin(second), failed=2)
    split.merge(BatchStatus.FAILED)
    assert split.hub.batch_verbs.rerun_failed(split.id, actor="kim") == 1
    assert (split.shards(), split.asked()) == (["succeeded", "pending"], [[1]])
    split.work_off()
    assert [tick.occurrence for tick in split.ticks(MERGE)] == [f"{split.id}/0", f"{split.id}/1"]
    split.merge()
    assert (split.status, split.execution_status()) == (BatchStatus.SUCCEEDED, "succeeded")


def test_a_batch_that_succeeded_in_part_is_merged_anew_and_keeps_its_first_result(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 1, failed_items="allow")
    split.advance()
    split.work_off(failed=1)
    split.merge()
    first = split.batch.execution_id
    with pytest.raises(NotPossible):
        split.hub.batch_verbs.resume(split.id, actor="kim")
    assert split.hub.batch_verbs.rerun_failed(split.id, actor="kim") == 1
    second = split.batch.execution_id
    assert second != first
    assert split.execution_status() == "waiting"
    split.work_off()
    split.merge()
    with database.reading() as connection:
        standings = split.hub.executions.standings(connection, [first, second])
    assert {status for status, _ in standings.values()} == {"succeeded"}
    with pytest.raises(NotPossible, match="no item"):
        split.hub.batch_verbs.rerun_failed(split.id, actor="kim")


def test_a_batch_that_was_not_split_is_split_again(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 0)
    split.runs.end(split.split_run)
    split.keeper.look()
    assert split.hub.batch_verbs.resume(split.id, actor="kim") == 0
    assert split.status is BatchStatus.SPLITTING
    (tick,) = split.ticks(REPAIR)
    launch = tick.inputs["launch"]
    assert isinstance(launch, dict)
    assert (launch["resume"], launch["trigger"], launch["occurrence"]) == (True, "nightly", "7")
    assert (split.keeper.look(), split.status) == ([], BatchStatus.SPLITTING)
    with database.transaction() as connection:
        key = (tick.task_key, tick.trigger, tick.occurrence)
        split.hub.ticks.decide(connection, *key, Verdict.LAUNCH_FAILED, reason="there is no such job")
    split.keeper.look()
    assert (split.status, split.batch.reason) == (BatchStatus.FAILED, "there is no such job")


def test_one_shard_is_worked_on_again_and_the_others_stay(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 3)
    split.advance()
    split.work_off(failed=1)
    with pytest.raises(IllegalTransition), database.transaction() as connection:
        split.hub.batch_verbs.reopen_shards(connection, split.id, [1], actor="kim")
    split.merge(BatchStatus.FAILED)
    with database.transaction() as connection:
        assert split.hub.batch_verbs.reopen_shards(connection, split.id, [1], actor="kim") == 1
    assert (split.status, split.shards(), split.execution_status()) == (
        BatchStatus.RUNNING,
        ["succeeded", "pending", "succeeded"],
        "waiting",
    )
    with database.transaction() as connection:
        assert split.hub.batch_verbs.reopen_shards(connection, split.id, [1], actor="kim") == 0
