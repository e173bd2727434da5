import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_pipelines.core.batch import BatchStatus, ShardStatus
from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.errors import IllegalTransition, StorageError
from agent_pipelines.core.event import AgentEvent, Final
from agent_pipelines.core.execution import RunRef, Status
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.execution.batch.shard import LOST_AFTER
from agent_pipelines.execution.batch.verbs import NotPossible
from agent_pipelines.execution.checks import load_checks
from agent_pipelines.ledger.batch_results import ItemResult
from agent_pipelines.ledger.batches import NewShard
from agent_pipelines_tests.execution.batch.batching import Batching, Echo, agent, spec, write
from agent_pipelines_tests.execution.conftest import invocation


def yields() -> Iterator[object]:
    yield from ({"id": f"g{number}", "text": f"made {number}"} for number in range(15))


def longest(results: Iterable[ItemResult]) -> str:
    return max((str(each.value) for each in results), key=len)


def broken(results: Iterable[ItemResult]) -> str:
    raise ValueError(f"nothing to be made of {len(list(results))}")


def is_short(output: str, _invocation: Any) -> str | None:
    return "too long" if len(output) > 10 else None


class Quick(Echo):
    """Answers at once."""

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        yield Final(text="quick")


def test_a_batch_is_split_worked_on_and_merged_in_order(batching: Batching) -> None:
    write(batching.directory, [f"say {number}" for number in range(25)])
    task = spec()
    split = batching.split(task)
    assert split.outcome == "new"
    assert split.execution.status is Status.WAITING
    assert split.batch is not None
    assert (split.batch.status, split.batch.item_count, split.batch.shard_count) == (BatchStatus.RUNNING, 25, 3)
    with pytest.raises(IllegalTransition, match="shards of it have not"):
        batching.merge(task, split.batch.id)
    for number in (2, 0, 1):
        shard = batching.work(task, split.batch.id, number).shard
        assert shard is not None
        assert (shard.status, shard.done, shard.failed, shard.tokens) == (
            ShardStatus.SUCCEEDED,
            shard.item_count,
            0,
            4 * shard.item_count,
        )
    assert batching.echo.most <= 4
    progress = batching.progress(split.batch.id)
    assert (progress.items, progress.done, progress.open, progress.cost_usd) == (25, 25, 0, 12.5)
    result = batching.merge(task, split.batch.id)
    assert (result.status, result.execution_id) == (Status.SUCCEEDED, split.execution.id)
    assert result.output == [f"say {number}" for number in range(25)]
    with batching.hub.database.reading() as connection:
        latest = batching.hub.executions.latest_success(connection, task.key)
        tick = batching.hub.ticks.find(connection, task.key, split.execution.trigger, split.execution.occurrence)
    assert latest is not None
    assert latest.id == split.execution.id
    assert tick is not None
    assert (tick.verdict, tick.execution_id) == ("ran", split.execution.id)


def test_each_item_has_the_whole_record_of_an_execution(batching: Batching) -> None:
    write(batching.directory, ["token is sk-abcdef123456"])
    task = spec()
    split = batching.split(task)
    assert split.batch is not None
    batching.work(task, split.batch.id, run=RunRef(run_id="run-1", job="j", step="s", partition="p"))
    (result,) = batching.results(split.batch.id)
    hub = batching.hub
    with hub.database.reading() as connection:
        stored = hub.executions.get(connection, result.execution_id)
        (attempt,) = hub.executions.attempts.of(connection, result.execution_id)
        entries = hub.ledger.journal.read(connection, result.execution_id)
        spans = hub.ledger.spans.read(connection, result.execution_id)
        found = hub.executions.list(connection, text="token secret")
    assert stored is not None
    assert (stored.item, stored.position, stored.shard, stored.batch_id) == ("i0", 0, 0, split.batch.id)
    assert (stored.run_id, stored.job, stored.step, stored.partition) == ("run-1", "j", "s", "p")
    assert (stored.status, stored.text, stored.attempts) == (Status.SUCCEEDED, "token is [secret]", 1)
    assert (stored.agent, stored.node, stored.usage.cost_usd) == ("worker", "n1", 0.5)
    assert stored.occurrence == split.execution.occurrence
    assert stored.idempotency_key == stored.invocation.idempotency_key != split.execution.idempotency_key
    assert stored.invocation.item_value == {"id": "i0", "text": "token is [secret]"}
    assert stored.invocation.messages[-1].content == "token is [secret]"
    assert (attempt.status, attempt.usage.input_tokens, attempt.run_id) == ("succeeded", 3, "run-1")
    assert [entry.kind for entry in entries] == ["usage", "final"]
    assert sorted(span.name for span in spans) == ["execute app/job", "invoke_agent worker"]
    assert [each.id for each in found] == [stored.id]


def test_poison_items_are_set_aside_after_their_attempts(batching: Batching) -> None:
    write(batching.directory, ["a", "bad", "b", "bad too", "c"])
    task = spec({"failed_items": "allow", "max_failed": 0.5})
    split = batching.split(task)
    assert split.batch is not None
    shard = batching.work(task, split.batch.id).shard
    assert shard is not None
    assert (shard.status, shard.done, shard.failed) == (ShardStatus.SUCCEEDED, 3, 2)
    assert Counter(batching.echo.asked) == {"i0": 1, "i1": 2, "i2": 1, "i3": 2, "i4": 1}
    hub = batching.hub
    with hub.database.reading() as connection:
        poison = hub.ledger.batch_results.page(connection, split.batch.id, status=Status.FAILED)
        attempts = hub.executions.attempts.of(connection, poison[0].execution_id)
        outbox = hub.ledger.outbox.after(connection, 0)
    assert [(each.item, each.error_class, each.attempts) for each in poison] == [("i1", "internal", 2), ("i3", "internal", 2)]
    assert [attempt.status for attempt in attempts] == ["failed", "failed"]
    assert [row.kind for row in outbox] == ["execution.failed"] * 2
    assert batching.merge(task, split.batch.id).output == ["a", "b", "c"]


def test_one_failed_item_fails_the_batch_unless_it_may(batching: Batching) -> None:
    write(batching.directory, ["a", "bad", "b"])
    task = spec()
    split = batching.split(task)
    assert split.batch is not None
    batching.work_all(task, split)
    result = batching.merge(task, split.batch.id)
    assert (result.status, result.error_message) == (Status.FAILED, "1 of 3 items failed, and none may")
    assert batching.progress(split.batch.id).status is BatchStatus.FAILED


def test_a_reopened_batch_does_only_what_failed(batching: Batching, clock: ManualClock) -> None:
    write(batching.directory, [f"say {number}" for number in range(25)])
    task = spec()
    batching.echo.bad = {"i3", "i21"}
    split = batching.split(task)
    assert split.batch is not None
    batching.work_all(task, split)
    batching.merge(task, split.batch.id)
    batching.echo.bad, batching.echo.asked = set(), []
    clock.time += 1
    assert batching.hub.batch_verbs.rerun_failed(split.batch.id, actor="kim") == 2
    batch_id = split.batch.id
    assert batching.progress(batch_id).status is BatchStatus.RUNNING
    assert [batching.work(task, batch_id, number).shard is not None for number in range(3)] == [True, False, True]
    assert batching.echo.asked == ["i3", "i21"]
    progress = batching.progress(batch_id)
    assert (progress.done, progress.failed, progress.cost_usd) == (25, 0, 12.5)
    assert batching.merge(task, batch_id).output == [f"say {number}" for number in range(25)]
    (result,) = [each for each in batching.results(batch_id) if each.item == "i3"]
    assert result.attempts == 3


def test_what_is_finished_is_not_done_again_after_kill(batching: Batching, tmp_path: Path, clock: ManualClock) -> None:
    write(batching.directory, [f"say {number}" for number in range(60)])
    task = spec({"shard_size": 60})
    split = batching.split(task)
    assert split.batch is not None
    url = batching.hub.database.url.render_as_string(hide_password=False)
    notes = tmp_path / "notes"
    killed = "agent_pipelines_tests.execution.batch.killed_shard"
    arguments = [url, str(tmp_path), split.batch.id, "dead-run", str(notes), "30"]
    assert subprocess.run([sys.executable, "-m", killed, *arguments], check=False).returncode == -9
    before = {each.item: each for each in batching.results(split.batch.id)}
    finished = {item for item, each in before.items() if each.status is Status.SUCCEEDED}
    cut_off = {item for item, each in before.items() if each.status is Status.RUNNING}
    assert finished
    assert cut_off
    # Nobody may take it while the dead run may live, but for the run that continues it.
    with batching.hub.database.reading() as connection:
        shard = batching.hub.ledger.batches.shard(connection, split.batch.id, 0)
    assert shard is not None
    assert shard.beat_at is not None
    clock.time = shard.beat_at
    assert batching.work(task, split.batch.id).shard is None
    clock.time = shard.beat_at + LOST_AFTER + 1
    taken = batching.work(task, split.batch.id, run=RunRef(run_id="second-run")).shard
    assert taken is not None
    assert (taken.status, taken.done, taken.attempts) == (ShardStatus.SUCCEEDED, 60, 2)
    assert not finished & set(batching.echo.asked)
    assert cut_off <= set(batching.echo.asked)
    assert all(count == 1 for count in Counter(batching.echo.asked).values())
    with batching.hub.database.reading() as connection:
        attempts = batching.hub.executions.attempts.of(connection, before[min(cut_off)].execution_id)
    assert [(attempt.status, attempt.run_id) for attempt in attempts] == [("lost", "dead-run"), ("succeeded", "second-run")]


def test_an_item_whose_process_always_dies_is_set_aside(batching: Batching, tmp_path: Path, clock: ManualClock) -> None:
    write(batching.directory, ["say it"])
    task = spec({"shard_size": 60}, retry={"max_attempts": 2, "idempotent": True})
    split = batching.split(task)
    assert split.batch is not None
    url = batching.hub.database.url.render_as_string(hide_password=False)
    arguments = [url, str(tmp_path), split.batch.id]
    killed = "agent_pipelines_tests.execution.batch.killed_shard"
    for run_id in ("first", "first"):
        argv = [sys.executable, "-m", killed, *arguments, run_id, str(tmp_path / "notes"), "1"]
        assert subprocess.run(argv, check=False).returncode == -9
    shard = batching.work(task, split.batch.id, run=RunRef(run_id="next", parent_run_id="first", resumes=True)).shard
    assert shard is not None
    assert (shard.status, shard.failed, batching.echo.asked) == (ShardStatus.SUCCEEDED, 1, [])
    (result,) = batching.results(split.batch.id)
    assert (result.error_class, result.error_message) == (
        "unknown_outcome",
        "its process died while its agent was at work (2 of its attempts)",
    )


def test_a_run_that_was_taken_for_dead_writes_nothing_more(batching: Batching, clock: ManualClock) -> None:
    write(batching.directory, ["a", "hang", "b"])
    task = spec()
    split = batching.split(task)
    assert split.batch is not None
    batch_id = split.batch.id

    async def both() -> tuple[Any, Any]:
        first = asyncio.ensure_future(batching.worker(task, RunRef(run_id="slow")).work(batch_id, 0))
        await batching.echo.hanging.wait()
        clock.time += LOST_AFTER + 1
        second = batching.worker(task, RunRef(run_id="quick"), agent=agent(Quick()))
        return await second.work(batch_id, 0), await first

    taken, lost = asyncio.run(both())
    assert taken.shard.run_id == "quick"
    assert taken.shard.status is ShardStatus.SUCCEEDED
    assert lost.shard.run_id == "quick"
    assert batching.statuses(batch_id) == {"succeeded": 3}


def test_a_cancelled_batch_stops_and_can_go_on(batching: Batching, clock: ManualClock) -> None:
    write(batching.directory, ["a", "hang", "b"] + [f"say {number}" for number in range(20)])
    task = spec()
    split = batching.split(task)
    assert split.batch is not None
    batch_id = split.batch.id
    verbs = batching.hub.batch_verbs

    async def cancelled() -> Any:
        working = asyncio.ensure_future(batching.worker(task).work(batch_id, 0))
        await batching.echo.hanging.wait()
        await asyncio.to_thread(verbs.cancel, batch_id, actor="kim", reason="no longer wanted")
        return await working

    outcome = asyncio.run(cancelled())
    assert outcome.shard.status is ShardStatus.CANCELLED
    assert batching.echo.at_once == 0
    progress = batching.progress(batch_id)
    assert progress.status is BatchStatus.CANCELLED
    assert progress.shards == {ShardStatus.CANCELLED: 3}
    assert "running" not in batching.statuses(batch_id)
    with pytest.raises(NotPossible, match="has ended"):
        verbs.cancel(batch_id, actor="kim")
    write(batching.directory, ["a", "look", "b"] + [f"say {number}" for number in range(20)])
    clock.time += 1
    assert verbs.resume(batch_id, actor="kim") == 3
    refused = batching.work(task, batch_id).shard
    assert refused is not None
    assert refused.status is ShardStatus.FAILED
    assert refused.reason is not None
    assert "has changed since the batch was split" in refused.reason


def test_an_interrupted_run_gives_its_shard_back(batching: Batching) -> None:
    write(batching.directory, ["a", "hang", "b"])
    task = spec()
    split = batching.split(task)
    assert split.batch is not None
    batch_id = split.batch.id

    async def interrupted() -> None:
        working = asyncio.ensure_future(batching.worker(task).work(batch_id, 0))
        await batching.echo.hanging.wait()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working

    asyncio.run(interrupted())
    with batching.hub.database.reading() as connection:
        shard = batching.hub.ledger.batches.shard(connection, batch_id, 0)
        (hung,) = [each for each in batching.results(batch_id) if each.item == "i1"]
        attempts = batching.hub.executions.attempts.of(connection, hung.execution_id)
    assert shard is not None
    assert (shard.status, shard.reason) == (ShardStatus.PENDING, "the run was cancelled")
    assert (hung.status, [attempt.status for attempt in attempts]) == (Status.CANCELLED, ["cancelled"])
    again = batching.work(task, batch_id, agent=agent(Quick())).shard
    assert again is not None
    assert (again.status, again.done, again.reason) == (ShardStatus.SUCCEEDED, 3, None)


def test_only_what_changed_is_done_again(batching: Batching) -> None:
    task = spec({"changed_only": True})
    write(batching.directory, ["a", "b", "bad"])
    first = batching.split(task)
    assert first.batch is not None
    batching.work_all(task, first)
    batching.echo.asked = []
    write(batching.directory, ["a", "B", "c", "d"])
    second = batching.split(task)
    assert second.batch is not None
    shard = batching.work(task, second.batch.id).shard
    assert shard is not None
    assert (shard.done, shard.skipped, sorted(batching.echo.asked)) == (3, 1, ["i1", "i2", "i3"])
    assert batching.progress(second.batch.id).open == 0
    batching.echo.asked = []
    asked_otherwise = task.model_copy(update={"prompt": "Now: {{ item.text }}"})
    third = batching.split(asked_otherwise)
    assert third.batch is not None
    batching.work_all(asked_otherwise, third)
    assert len(batching.echo.asked) == 4


def test_two_items_of_one_name_are_refused(batching: Batching) -> None:
    (batching.directory / "items.jsonl").write_text('{"id": 1}\n{"id": 2}\n\n{"id": 1}\n')
    split = batching.split(spec(prompt="x"))
    assert split.execution.status is Status.FAILED
    assert split.execution.error_message is not None
    assert "items 0 and 2 are both named '1'" in split.execution.error_message
    assert split.batch is not None
    assert (split.batch.status, split.is_open) == (BatchStatus.FAILED, False)


def test_items_of_a_generator_are_kept_as_they_were_yielded(batching: Batching) -> None:
    task = spec({"items": {"python": f"{__name__}:yields"}})
    split = batching.split(task)
    assert split.batch is not None
    assert split.batch.item_count == 15
    batching.work_all(task, split)
    assert batching.merge(task, split.batch.id).output == [f"made {number}" for number in range(15)]


def test_an_upstream_list_gives_the_items(batching: Batching) -> None:
    write(batching.directory, ["one", "two"])
    source = spec(name="source")
    made = batching.split(source, invocation=invocation(task="source"))
    assert made.batch is not None
    batching.work_all(source, made)
    batching.merge(source, made.batch.id)
    task = spec({"items": {"asset": "source"}, "key": "{{ item }}"}, dependencies=["source"], prompt="{{ item }}!")
    split = batching.split(task)
    assert split.batch is not None
    batching.work_all(task, split)
    assert batching.merge(task, split.batch.id).output == ["one!", "two!"]
    (first, _) = batching.results(split.batch.id)
    with batching.hub.database.reading() as connection:
        stored = batching.hub.executions.get(connection, first.execution_id)
    assert stored is not None
    assert stored.invocation.upstream_executions == {"app/source": made.execution.id}


def test_a_broadcast_asks_every_node_once(batching: Batching) -> None:
    task = spec({"form": "broadcast", "items": None, "key": None, "to": ["worker", "other"]}, prompt="Hello {{ item.node }}")
    agents = [agent(Echo(), Echo()), agent(Echo(), name="other")]
    split = batching.split(task, *agents)
    assert split.batch is not None
    batching.work(task, split.batch.id, agent=agents[0], agents={"other": agents[1]})
    asked = [(each.item, each.text) for each in batching.results(split.batch.id)]
    assert asked == [("worker/n1", "Hello n1"), ("worker/n2", "Hello n2"), ("other/n1", "Hello n1")]
    with batching.hub.database.reading() as connection:
        nodes = [
            (stored.agent, stored.node)
            for each in batching.results(split.batch.id)
            if (stored := batching.hub.executions.get(connection, each.execution_id)) is not None
        ]
    assert nodes == [("worker", "n1"), ("worker", "n2"), ("other", "n1")]


@pytest.mark.parametrize(
    ("function", "status", "output"),
    [("longest", Status.SUCCEEDED, "the longest"), ("broken", Status.FAILED, None)],
)
def test_a_function_reduces_the_results(batching: Batching, function: str, status: Status, output: object) -> None:
    write(batching.directory, ["a", "the longest", "b"])
    task = spec({"form": "map_reduce", "reduce": f"{__name__}:{function}"})
    split = batching.split(task)
    assert split.batch is not None
    batching.work_all(task, split)
    result = batching.merge(task, split.batch.id)
    assert (result.status, result.output) == (status, output)
    if status is Status.FAILED:
        assert "broken raised ValueError: nothing to be made of 3" in (result.error_message or "")


def test_checks_judge_each_item(batching: Batching) -> None:
    write(batching.directory, ["short", "far too long for that"])
    task = spec(checks=[{"name": "short", "python": f"{__name__}:is_short"}])
    split = batching.split(task)
    assert split.batch is not None
    batching.work(task, split.batch.id, checks=load_checks(task))
    good, bad = batching.results(split.batch.id)
    assert (good.status, bad.status, bad.error_class) == (Status.SUCCEEDED, Status.FAILED, "check")


def test_a_prompt_that_cannot_be_rendered_fails_its_item_only(batching: Batching) -> None:
    (batching.directory / "items.jsonl").write_text('{"id": 1, "text": "a"}\n{"id": 2}\n')
    task = spec()
    split = batching.split(task)
    assert split.batch is not None
    batching.work(task, split.batch.id)
    good, bad = batching.results(split.batch.id)
    assert (good.status, bad.status, bad.error_class, bad.attempts) == (Status.SUCCEEDED, Status.FAILED, "context", 0)
    with batching.hub.database.reading() as connection:
        assert batching.hub.executions.attempts.of(connection, bad.execution_id) == []


def test_a_gate_is_asked_once_for_the_batch(batching: Batching) -> None:
    write(batching.directory, ["a"])
    split = batching.split(spec(), gate=lambda invocation: "nothing to do tonight")
    assert (split.execution.status, split.execution.reason, split.batch) == (Status.SKIPPED, "nothing to do tonight", None)


def test_a_second_run_of_the_same_tick_opens_no_second_batch(batching: Batching) -> None:
    write(batching.directory, ["a"])
    asked = invocation()
    first = batching.split(spec(), invocation=asked)
    again = batching.split(spec(), invocation=asked)
    assert first.batch is not None
    assert again.batch is not None
    assert (again.outcome, again.batch.id, again.execution.status) == ("resumed", first.batch.id, Status.WAITING)
    batching.work_all(spec(), first)
    batching.merge(spec(), first.batch.id)
    third = batching.split(spec(), invocation=asked)
    assert (third.outcome, third.is_open) == ("duplicate", False)


def test_a_batch_of_nothing_is_merged_to_nothing(batching: Batching) -> None:
    write(batching.directory, [])
    split = batching.split(spec())
    assert split.batch is not None
    assert batching.merge(spec(), split.batch.id).output == []


def test_a_commit_whose_answer_is_lost_is_not_done_twice(batching: Batching, monkeypatch: pytest.MonkeyPatch) -> None:
    write(batching.directory, [f"say {number}" for number in range(10)])
    task = spec()
    split = batching.split(task)
    assert split.batch is not None
    write_once, groups = batching.hub.database.write, [0]

    async def losing(operation: Any) -> Any:
        result = await write_once(operation)
        if "GroupWriter" in operation.__qualname__:
            groups[0] += 1
            if groups[0] % 2:
                raise StorageError("the connection broke off after the commit")
        return result

    monkeypatch.setattr(batching.hub.database, "write", losing)
    shard = batching.work(task, split.batch.id).shard
    assert shard is not None
    assert (shard.status, shard.done, shard.failed, shard.tokens) == (ShardStatus.SUCCEEDED, 10, 0, 40)
    assert all(count == 1 for count in Counter(batching.echo.asked).values())


def test_a_merge_that_broke_off_is_done_by_another_run(batching: Batching) -> None:
    write(batching.directory, ["a", "b"])
    task = spec()
    split = batching.split(task)
    assert split.batch is not None
    batching.work_all(task, split)
    hub = batching.hub
    with hub.database.transaction() as connection:
        hub.ledger.batches.begin_merge(connection, split.batch.id)
        hub.executions.take_up(connection, split.execution.id, RunRef(run_id="dies"))
        assert hub.executions.close_lost(connection, split.execution.id, "the process is gone")
    assert batching.merge(task, split.batch.id).output == ["a", "b"]
    with pytest.raises(IllegalTransition):
        batching.merge(task, split.batch.id)


def test_one_item_that_somebody_cancels_stops_and_counts_as_failed(batching: Batching) -> None:
    write(batching.directory, ["a", "hang", "b"])
    task = spec()
    split = batching.split(task)
    assert split.batch is not None
    batch_id, hub = split.batch.id, batching.hub

    async def cancelled() -> Any:
        working = asyncio.ensure_future(batching.worker(task).work(batch_id, 0))
        await batching.echo.hanging.wait()
        (hung,) = [each for each in await asyncio.to_thread(batching.results, batch_id) if each.item == "i1"]
        assert await hub.database.write(lambda connection: hub.executions.cancel(connection, hung.execution_id, "stop it"))
        return await working

    shard = asyncio.run(cancelled()).shard
    assert (shard.status, shard.done, shard.failed) == (ShardStatus.SUCCEEDED, 2, 1)
    assert batching.statuses(batch_id) == {"succeeded": 2, "cancelled": 1}


def test_a_split_that_broke_off_is_split_anew(batching: Batching) -> None:
    write(batching.directory, [f"say {number}" for number in range(25)])
    asked, run = invocation(), RunRef(run_id="dies")
    hub = batching.hub
    with hub.database.transaction() as connection:
        hub.ledger.specs.put(connection, spec())
        admitted = hub.executions.admit(
            connection, asked.model_copy(update={"spec_hash": spec().spec_hash}), run, dedupe_key=None, trace_id="0" * 32
        )
        batch, _ = hub.ledger.batches.open(
            connection, admitted.execution.invocation, execution_id=admitted.execution.id, run_id="dies", shard_size=10
        )
        hub.ledger.batches.add_shards(connection, batch.id, [NewShard(number=0, first_position=0, last_position=9, seek_hint=0)])
    split = batching.split(spec(), invocation=asked, run=run)
    assert split.batch is not None
    assert (split.batch.id, split.batch.shard_count, split.batch.item_count) == (batch.id, 3, 25)
