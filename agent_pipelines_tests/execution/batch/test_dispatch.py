from agent_pipelines.core.batch import BatchStatus
from agent_pipelines.core.clock import ManualClock
from agent_pipelines.engine.launch import launch_of, tag
from agent_pipelines.engine.tick import MERGE
from agent_pipelines.execution.batch.names import partition_key, shard_of_partition
from agent_pipelines.store.database import Database
from agent_pipelines_tests.execution.batch.splitting import Splitted


def test_as_many_shards_are_requested_as_may_be_at_work_and_the_next_one_when_one_ends(
    database: Database, clock: ManualClock
) -> None:
    split = Splitted(database, clock, 5, concurrency=2)
    assert (split.advance(), split.asked()) == (2, [[0], [1]])
    assert split.advance() == 0
    run_id = split.begin(split.ticks()[0])
    assert split.advance() == 0
    split.end(0, run_id)
    assert split.asked() == [[1], [2]]


def test_a_request_asks_for_the_job_of_shards_and_the_partition(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 1)
    split.advance()
    job, launch, tags = launch_of(split.ticks()[0])
    assert job == "app__audit__shards"
    assert tags == {"dagster/partition": partition_key(split.id, 0), tag("batch"): split.id}
    assert (launch.trigger, launch.occurrence, launch.logical_at) == ("shard", f"{split.id}/0/0", 5)
    assert shard_of_partition(partition_key(split.id, 0)) == (split.id[:18], 0)


def test_several_shards_of_a_run_are_a_range_without_gaps(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 5, concurrency=3, shards_per_run=2)
    split.advance()
    assert split.asked() == [[0, 1], [2, 3], [4]]
    _, _, tags = launch_of(split.ticks()[0])
    assert tags["dagster/asset_partition_range_start"] == partition_key(split.id, 0)
    assert tags["dagster/asset_partition_range_end"] == partition_key(split.id, 1)
    run_id = split.begin(split.ticks()[0])
    assert split.advance() == 0
    assert split.asked() == [[2, 3], [4]]
    with database.transaction() as connection:
        # While its run works on the first one the second one is not requested again, though it is pending.
        assert split.hub.batch_dispatcher.advance(connection, split.id) == 0
    split.end(0, run_id)


def test_the_end_of_the_last_shard_requests_the_merge_in_the_same_transaction(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 3, concurrency=2)
    split.advance()
    split.work_off()
    assert (split.status, split.shards()) == (BatchStatus.MERGING, ["succeeded"] * 3)
    (merge,) = split.ticks(MERGE)
    job, _, tags = launch_of(merge)
    assert (job, merge.occurrence, tags) == ("app__audit__merge", f"{split.id}/0", {tag("batch"): split.id})
    assert split.advance() == 0


def test_a_batch_without_items_goes_to_its_merge_at_once(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 0)
    with database.transaction() as connection:
        split.hub.executions.wait(connection, split.batch.execution_id, run_id=split.split_run)
        split.hub.batches.split(connection, split.id, items=0, shards=0, fingerprint={})
    assert (split.advance(), split.status) == (1, BatchStatus.MERGING)


def test_a_shard_that_was_cancelled_cancels_the_batch_when_the_others_are_done(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 2)
    split.advance()
    first, second = split.ticks()
    run_id = split.begin(first)
    with database.transaction() as connection:
        assert split.hub.batches.cancel_shard(connection, split.id, 0, run_id, reason="somebody did")
        split.hub.batch_dispatcher.advance(connection, split.id)
    assert split.status is BatchStatus.RUNNING
    split.end(1, split.begin(second))
    assert (split.status, split.batch.reason) == (BatchStatus.CANCELLED, "shards were cancelled: 0")
    assert (split.execution_status(), split.ticks(MERGE)) == ("cancelled", [])


def test_what_a_batch_requests_makes_nothing_due_that_comes_after_its_task(database: Database, clock: ManualClock) -> None:
    split = Splitted(database, clock, 2)
    split.advance()
    with database.reading() as connection:
        assert not split.hub.ticks.claims(connection, after=0)
