"""A task that works on a batch, through Dagster, in this process: its ticks are launched by hand."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from agent_pipelines.components.agent import Agent
from agent_pipelines.core.batch import BatchStatus
from agent_pipelines.engine.launch import launch_of
from agent_pipelines.engine.tick import MERGE, SHARD, Tick
from agent_pipelines.execution.batch.names import partition_key, partitions_name
from agent_pipelines.ledger.batches import Batch, Shard
from agent_pipelines_tests.components.running import definitions_of, executions, hub_of, task

CALLS: Counter[str] = Counter()
BAD: set[str] = set()
AGENT = Agent(name="writer", runtime="python", config={"function": f"{__name__}:work"})
SHARDS, MERGED = dg.AssetKey(["default", "digest", "shards"]), dg.AssetKey(["default", "digest"])


async def work(invocation: Any) -> dict[str, Any]:
    """The agent: notes each item, and fails for some."""
    CALLS[invocation.item] += 1
    if invocation.item in BAD:
        raise RuntimeError("poison")
    return {"item": invocation.item}


def count(results: Iterator[Any]) -> dict[str, Any]:
    """A reducer."""
    found = [result.item for result in results]
    return {"items": len(found), "first": found[0], "last": found[-1]}


class Batched:
    """The definitions of one task, and a way to launch what is requested."""

    def __init__(self, instance: dg.DagsterInstance, items: Path, **changes: Any) -> None:
        CALLS.clear()
        BAD.clear()
        self.instance = instance
        self.hub = hub_of(instance)
        batch = {"items": {"file": str(items)}, "key": "name", "shard_size": 4, "in_flight": 3, **changes.pop("batch", {})}
        retry = {"max_attempts": 1}
        self.defs = definitions_of(task(batch=batch, retry=retry, output={"format": "json"}, **changes), agents=(AGENT,))

    def run(self, job: str = "default__digest", **tags: str) -> dg.ExecuteInProcessResult:
        definition = self.defs.resolve_job_def(job)
        return definition.execute_in_process(instance=self.instance, raise_on_error=False, tags=tags)

    def launch(self, tick: Tick) -> dg.ExecuteInProcessResult:
        job, launch, tags = launch_of(tick)
        return self.run(job, **tags, **launch.tags())

    def open(self, trigger: str) -> list[Tick]:
        with self.hub.database.reading() as connection:
            return [tick for tick in self.hub.ticks.open(connection) if tick.trigger == trigger]

    def work_off(self) -> list[bool]:
        """Launch what is requested until nothing is; returns which runs succeeded."""
        succeeded: list[bool] = []
        while ticks := [*self.open(SHARD), *self.open(MERGE)]:
            succeeded.append(self.launch(ticks[0]).success)
        return succeeded

    def batch(self) -> Batch:
        with self.hub.database.reading() as connection:
            return self.hub.batches.list(connection)[0]

    def shards(self) -> list[Shard]:
        with self.hub.database.reading() as connection:
            return list(self.hub.batches.shards(connection, self.batch().id))

    def partitions(self) -> list[str]:
        return list(self.instance.get_dynamic_partitions(partitions_name(("default", "default", "digest"))))

    def latest(self, key: dg.AssetKey) -> dg.AssetMaterialization:
        event = self.instance.get_latest_materialization_event(key)
        assert event is not None
        assert event.asset_materialization is not None
        return event.asset_materialization


@pytest.fixture
def items(tmp_path: Path) -> Path:
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps({"name": f"i{number:02}"}) + "\n" for number in range(10)))
    return file


@pytest.fixture
def batched(instance: dg.DagsterInstance, items: Path) -> Batched:
    return Batched(instance, items)


def test_a_run_of_the_task_opens_a_batch_and_shards_are_partitions(batched: Batched) -> None:
    assert batched.run().success
    batch = batched.batch()
    assert (batch.status, batch.item_count, batch.shard_count) == (BatchStatus.RUNNING, 10, 3)
    assert batched.partitions() == [partition_key(batch.id, number) for number in range(3)]
    assert len(batched.open(SHARD)) == 3
    assert batched.instance.get_latest_materialization_event(MERGED) is None


def test_shards_are_worked_on_and_merged_in_order(batched: Batched) -> None:
    assert batched.run().success
    assert batched.work_off() == [True] * 4
    assert batched.batch().status is BatchStatus.SUCCEEDED
    assert set(CALLS.values()) == {1}
    assert len(CALLS) == 10
    assert batched.instance.get_materialized_partitions(SHARDS) == set(batched.partitions())
    merged = batched.latest(MERGED).metadata
    assert (merged["items"].value, merged["done"].value, merged["failed"].value) == (10, 10, 0)
    lines = Path(str(merged["results"].value)).read_text().splitlines()
    assert [json.loads(line)["item"] for line in lines] == [f"i{number:02}" for number in range(10)]
    (own,) = [each for each in executions(batched.instance) if each.item is None]
    assert own.output == [{"item": f"i{number:02}"} for number in range(10)]
    assert {tick.verdict for tick in _ticks(batched)} == {"ran"}


def test_a_run_may_work_on_several_shards(instance: dg.DagsterInstance, items: Path) -> None:
    batched = Batched(instance, items, batch={"shards_per_run": 2})
    batched.run()
    assert batched.work_off() == [True] * 3
    assert batched.instance.get_materialized_partitions(SHARDS) == set(batched.partitions())


def test_items_are_reduced(instance: dg.DagsterInstance, items: Path) -> None:
    batched = Batched(instance, items, batch={"form": "map_reduce", "reduce": f"{__name__}:count"})
    batched.run()
    assert all(batched.work_off())
    assert batched.latest(MERGED).metadata["output"].value == {"items": 10, "first": "i00", "last": "i09"}


def test_a_failed_item_makes_its_shard_and_the_batch_red_and_is_named(batched: Batched) -> None:
    BAD.add("i05")
    batched.run()
    assert batched.work_off() == [True, False, True, False]
    assert batched.batch().status is BatchStatus.FAILED
    assert batched.instance.get_materialized_partitions(SHARDS) == {batched.partitions()[0], batched.partitions()[2]}
    assert batched.instance.get_latest_materialization_event(MERGED) is None
    failure = _last_failure(batched, "default__digest__merge")
    assert "`i05`: agent: " in failure["failed_items"].value
    assert failure["see"].value == f"agent-pipelines batch items {batched.batch().id} --status failed"


def test_failed_items_may_be_allowed_and_are_done_again_alone(instance: dg.DagsterInstance, items: Path) -> None:
    batched = Batched(instance, items, batch={"failed_items": "allow", "max_failed": 0.2})
    BAD.add("i05")
    batched.run()
    assert batched.work_off() == [True] * 4
    assert batched.latest(MERGED).metadata["failed"].value == 1
    BAD.clear()
    assert batched.hub.batch_verbs.rerun_failed(batched.batch().id, actor="kim") == 1
    assert batched.work_off() == [True, True]
    assert (CALLS.pop("i05"), set(CALLS.values())) == (2, {1})
    assert batched.latest(MERGED).metadata["failed"].value == 0


def test_materializing_a_partition_again_does_its_failed_items_only(batched: Batched) -> None:
    BAD.add("i05")
    batched.run()
    batched.work_off()
    BAD.clear()
    key = batched.partitions()[1]
    assert batched.run("default__digest__shards", **{"dagster/partition": key}).success
    assert (CALLS.pop("i05"), set(CALLS.values())) == (2, {1})
    assert batched.work_off() == [True]
    assert batched.batch().status is BatchStatus.SUCCEEDED
    assert batched.run("default__digest__shards", **{"dagster/partition": key}).success
    assert set(CALLS.values()) == {1}


def test_another_run_of_the_task_is_another_batch(batched: Batched) -> None:
    batched.run()
    first = batched.batch().id
    batched.work_off()
    batched.run()
    assert batched.batch().id != first
    assert len(batched.partitions()) == 6


def test_what_is_wrong_with_the_items_fails_the_run_and_the_batch(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text('{"name": "a"}\n{"name": "a"}\n')
    batched = Batched(instance, file)
    result = batched.run()
    assert not result.success
    assert (batched.batch().status, batched.partitions()) == (BatchStatus.FAILED, [])
    assert "items 0 and 1 are both named 'a'" in (batched.batch().reason or "")


def test_a_batch_that_was_cancelled_is_not_worked_on(batched: Batched) -> None:
    batched.run()
    tick = batched.open(SHARD)[0]
    batched.hub.batch_verbs.cancel(batched.batch().id, actor="kim")
    assert not batched.launch(tick).success
    assert not CALLS
    assert batched.hub.batch_verbs.resume(batched.batch().id, actor="kim") == 3
    assert all(batched.work_off())
    assert set(CALLS.values()) == {1}


def _ticks(batched: Batched) -> list[Tick]:
    with batched.hub.database.reading() as connection:
        return list(batched.hub.ticks.list(connection))


def _last_failure(batched: Batched, job: str) -> dict[str, Any]:
    run = batched.instance.get_runs(dg.RunsFilter(job_name=job))[0]
    records = batched.instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    event = records[-1].event_log_entry.dagster_event
    assert event is not None
    failure = event.step_failure_data.user_failure_data
    assert failure is not None
    return dict(failure.metadata)
