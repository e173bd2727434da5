"""A batch in a deployment whose processes die: each item once, in order, and Dagster knows the shards as partitions."""

import os
import signal
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest

from agent_pipelines.core.batch import BatchStatus
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.task import TaskKey
from agent_pipelines.execution.batch.names import partitions_name
from agent_pipelines.ledger.batches import Batch
from agent_pipelines_tests.e2e.faulty import Deployment

pytestmark = pytest.mark.timeout(600)

TASK: TaskKey = ("default", "default", "many_orders")
ITEMS = 240


def test_a_shard_is_killed_and_every_item_is_done_once_and_merged_in_order(on_sqlite: Deployment) -> None:
    deployment = on_sqlite
    batch = opened(deployment)
    run_id = deployment_waits_for_a_shard_in_the_middle(deployment, batch)
    os.kill(process_of(deployment, run_id), signal.SIGKILL)
    deployment.wait_until(lambda: batch_of(deployment).finished_at is not None)
    ended = batch_of(deployment)
    assert (ended.status, ended.done, ended.failed) == (BatchStatus.SUCCEEDED, ITEMS, 0), ended
    with deployment.hub.database.reading() as connection:
        shards = deployment.hub.batches.shards(connection, batch.id)
        items = deployment.hub.batch_results.page(connection, batch.id, limit=1_000)
        (own,) = [
            each
            for each in deployment.hub.executions.list(connection, task=TASK[2], run_id=None, limit=1_000)
            if each.id == ended.execution_id
        ]
    assert sorted(shard.attempts for shard in shards)[-1] == 2
    assert [item.position for item in items] == list(range(ITEMS))
    assert own.output == [f"o{number:03}" for number in range(ITEMS)]
    # An item that was at work when its process died is asked for again, as a further attempt; one that was done is not.
    calls = calls_of(deployment)
    assert set(calls) == {f"o{number:03}" for number in range(ITEMS)}
    assert calls.total() - ITEMS <= 5
    assert all(calls[item.item] == item.attempts for item in items)
    key = dg.AssetKey([TASK[1], TASK[2], "shards"])
    deployment.wait_until(
        lambda: (
            deployment.instance.get_materialized_partitions(key)
            == set(deployment.instance.get_dynamic_partitions(partitions_name(TASK)))
        )
    )
    deployment.kill()


def opened(deployment: Deployment) -> Batch:
    """Have a batch opened, by the tick of a person, and wait until its shards are there."""
    deployment.start()
    hub, now = deployment.hub, deployment.hub.clock.now()
    with hub.database.transaction() as connection:
        hub.ticks.claim(connection, TASK, "on_demand", new_id(), origin=Origin.ON_DEMAND, due_at=now)
    deployment.wait_until(lambda: batches_of(deployment))
    return batch_of(deployment)


def deployment_waits_for_a_shard_in_the_middle(deployment: Deployment, batch: Batch) -> str:
    """The run that works on a shard of which some items are done, and some are not."""
    found: list[str] = []

    def look() -> bool:
        with deployment.hub.database.reading() as connection:
            at_work = deployment.hub.batch_dispatcher.at_work(connection, batch)
        found[:] = [shard.run_id for shard in at_work if shard.run_id and 0 < shard.done < shard.item_count // 2]
        return bool(found)

    deployment.wait_until(look)
    return found[0]


def process_of(deployment: Deployment, run_id: str) -> int:
    for record in deployment.instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT).records:
        event = record.event_log_entry.dagster_event
        pid = None if event is None else event.engine_event_data.metadata.get("pid")
        if pid is not None:
            return int(str(pid.value))
    raise AssertionError(f"no process of run {run_id} is known")


def batches_of(deployment: Deployment) -> list[Batch]:
    with deployment.hub.database.reading() as connection:
        return [each for each in deployment.hub.batches.list(connection) if each.shard_count]


def batch_of(deployment: Deployment) -> Batch:
    return batches_of(deployment)[0]


def calls_of(deployment: Deployment) -> Counter[str]:
    return Counter(Path(deployment.project.package / "orders").read_text().split())
