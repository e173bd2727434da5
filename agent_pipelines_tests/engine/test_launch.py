from typing import Any

from agent_pipelines.core.invocation import Origin
from agent_pipelines.engine.launch import Launch, launch_of, tag
from agent_pipelines.engine.tick import REPAIR, SHARD, Tick


def tick(**values: Any) -> Tick:
    row = {
        "seq": 1,
        "id": "t",
        "workspace": "default",
        "application": "app",
        "task": "report",
        "trigger": "cron",
        "origin": Origin.SCHEDULE,
        "occurrence": "5",
        "due_at": 5,
        "begins_at": 5,
        "logical_at": 7,
        "actor": "kim",
        "inputs": {},
        "claimed_at": 6,
        "run_id": None,
        "verdict": None,
        "reason": None,
        "execution_id": None,
        "decided_at": None,
    }
    return Tick.model_validate({**row, **values})


def test_a_tick_asks_for_its_task_with_what_was_rendered_when_it_was_claimed() -> None:
    asked = tick(origin=Origin.EVENT, occurrence="e", inputs={"event_id": "e", "variables": {"commit": "c1"}})
    job, launch, tags = launch_of(asked)
    assert (job, tags) == ("app__report", {})
    assert launch == Launch(
        task="app/report",
        trigger="cron",
        origin=Origin.EVENT,
        occurrence="e",
        due_at=5,
        logical_at=7,
        actor="kim",
        event_id="e",
        variables={"commit": "c1"},
    )


def test_a_repair_asks_for_the_invocation_of_another_tick() -> None:
    _, wanted, _ = launch_of(tick())
    wanted = wanted.model_copy(update={"resume": True})
    repair = tick(trigger=REPAIR, occurrence="x", inputs={"launch": wanted.model_dump(mode="json"), "resumptions": 0})
    job, launch, tags = launch_of(repair)
    assert (job, launch, tags) == ("app__report", wanted, {tag(REPAIR): "x"})


def test_a_shard_asks_for_a_job_and_a_partition_of_its_own() -> None:
    run = {"job": "app__report__shards", "tags": {"dagster/partition": "b-0003"}}
    shard = tick(trigger=SHARD, occurrence="b/3", inputs={"run": run})
    job, launch, tags = launch_of(shard)
    assert (job, tags) == ("app__report__shards", {"dagster/partition": "b-0003"})
    assert (launch.task, launch.trigger, launch.occurrence) == ("app/report", SHARD, "b/3")


def test_what_only_a_batch_may_ask_for_is_not_read_from_other_ticks() -> None:
    job, _, tags = launch_of(tick(inputs={"run": {"job": "other", "tags": {"x": "y"}}}))
    assert (job, tags) == ("app__report", {})
