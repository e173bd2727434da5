from agent_pipelines.core.batch import BatchStatus
from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.execution import Verdict
from agent_pipelines.engine.tick import MERGE
from agent_pipelines.store.database import Database
from agent_pipelines_tests.execution.batch.splitting import Splitted


def test_a_shard_whose_run_died_is_requested_again_until_it_has_failed_often_enough(
    database: Database, clock: ManualClock
) -> None:
    split = Splitted(database, clock, 1)
    split.advance()
    for number in range(3):
        assert [tick.occurrence for tick in split.ticks()] == [f"{split.id}/0/{n}" for n in range(number + 1)]
        split.runs.end(split.begin(split.ticks()[-1]))
        assert split.keeper.look()
    assert split.shards() == ["failed"]
    assert split.status is BatchStatus.MERGING
    assert split.asked() == []


def test_a_run_that_is_at_work_is_left_alone(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 1)
    split.advance()
    split.begin(split.ticks()[0])
    assert (split.keeper.look(), split.shards()) == ([], ["running"])


def test_a_shard_whose_run_never_came_has_failed(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 2)
    split.advance()
    tick = split.ticks()[1]
    with database.transaction() as connection:
        split.hub.ticks.decide(
            connection, tick.task_key, tick.trigger, tick.occurrence, Verdict.LAUNCH_FAILED, reason="there is no such job"
        )
    (line,) = split.keeper.look()
    assert line.endswith("shard 1 failed: there is no such job")
    assert split.shards() == ["pending", "failed"]
    assert split.keeper.look() == []


def test_a_batch_that_nobody_carries_on_after_its_split_is_carried_on(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 2)
    split.keeper.look()
    assert (split.partitions, split.asked()) == ([split.id], [[0], [1]])
    split.keeper.look()
    assert len(split.partitions) == 1


def test_a_split_whose_run_died_fails_the_batch(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 0)
    split.runs.end(split.split_run)
    (line,) = split.keeper.look()
    assert line.endswith(f"run {split.split_run} ended (FAILURE) while it split the batch")
    assert (split.status, split.execution_status()) == (BatchStatus.FAILED, "failed")


def test_a_merge_whose_run_died_is_requested_again_and_fails_in_the_end(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 1)
    split.advance()
    split.work_off()
    for number in range(3):
        assert split.status is BatchStatus.MERGING
        assert len(split.ticks(MERGE)) == number + 1
        split.runs.end(split.begin(split.ticks(MERGE)[-1]))
        assert split.keeper.look()
    assert (split.status, split.execution_status()) == (BatchStatus.FAILED, "failed")


def test_a_batch_whose_execution_was_cancelled_is_cancelled(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 2, concurrency=1)
    split.advance()
    with database.transaction() as connection:
        split.hub.executions.cancel(connection, split.batch.execution_id, "replaced")
    split.keeper.look()
    assert (split.status, split.shards(), split.asked()) == (BatchStatus.CANCELLED, ["cancelled"] * 2, [])
