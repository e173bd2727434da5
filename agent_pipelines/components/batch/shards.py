"""The step that works on shards."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from agent_pipelines.components.batch.opened import closing, nouns_of
from agent_pipelines.components.batch.poison import poison, where_to_see
from agent_pipelines.components.batch.shard_report import ShardReport
from agent_pipelines.components.deployment import hub_of
from agent_pipelines.components.step import agent_of
from agent_pipelines.core.batch import BatchStatus, ShardStatus
from agent_pipelines.core.errors import IllegalTransition
from agent_pipelines.core.execution import RunRef, Verdict
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.launch import Launch
from agent_pipelines.engine.materializations import Materializations, RunOfEvents
from agent_pipelines.engine.tick import SHARD
from agent_pipelines.execution import bridge
from agent_pipelines.execution.batch.names import partition_key, shard_of_partition
from agent_pipelines.execution.batch.shard import ShardWorker
from agent_pipelines.execution.checks import load_checks
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.batches import Batch, Shard, Tally


def work_on_shards(context: dg.AssetExecutionContext, spec: TaskSpec, directory: Path, key: dg.AssetKey) -> None:
    """Work on the shards that are the partitions of a run, one after the other, and tell Dagster of each when it ends.

    Raises dg.Failure at the end if a shard could not be worked on, or has failed items that its batch does not allow.
    """
    hub = hub_of(context.instance)
    batch, numbers = _asked(context, hub, spec)
    _begin(context, hub, batch, numbers)
    work = _Work(context, hub, spec, directory, key, batch)
    agents = {name: agent_of(context, name) for name in {spec.agent, *(spec.batch.to if spec.batch else ())}}
    bad = bridge.run(closing(hub, list(agents.values()), work.all(numbers, agents)))
    if bad:
        raise dg.Failure("\n".join(bad), metadata={"see": where_to_see(batch)}, allow_retries=False)


def _asked(context: dg.AssetExecutionContext, hub: Hub, spec: TaskSpec) -> tuple[Batch, Sequence[int]]:
    parts = [_part(key) for key in context.partition_keys]
    beginnings = {beginning for beginning, _ in parts}
    if len(beginnings) != 1:
        raise dg.Failure("a run works on shards of one batch; choose partitions that begin alike", allow_retries=False)
    with hub.database.reading() as connection:
        found = hub.batches.find(connection, beginnings.pop(), workspace=spec.workspace)
    mine = [batch for batch in found if batch.task_key == spec.key]
    if len(mine) != 1:
        raise dg.Failure(f"the batch of partition {context.partition_keys[0]} is not in the record any more", allow_retries=False)
    return mine[0], [number for _, number in parts]


def _part(key: str) -> tuple[str, int]:
    try:
        return shard_of_partition(key)
    except ValueError:
        raise dg.Failure(f"partition {key!r} is no shard of a batch", allow_retries=False) from None


def _begin(context: dg.AssetExecutionContext, hub: Hub, batch: Batch, numbers: Sequence[int]) -> None:
    """Give the tick of the run its verdict; shards that somebody else asks for are to be worked on again if they have ended."""
    run = context.run
    launch = Launch.from_tags(run.tags)
    with hub.database.transaction() as connection:
        if launch is not None and launch.trigger == SHARD and run.parent_run_id is None:
            of = {"run_id": run.run_id, "execution_id": batch.execution_id}
            hub.ticks.decide(connection, batch.task_key, SHARD, launch.occurrence, Verdict.RAN, **of)
        else:
            try:
                hub.batch_verbs.reopen_shards(connection, batch.id, numbers, actor=run.tags.get("user", "dagster"))
            except IllegalTransition:
                words = f"batch {batch.id} is {batch.status} just now; do this again when it has ended"
                raise dg.Failure(words, allow_retries=False) from None


@dataclass(frozen=True)
class _Work:
    """The shards of one run."""

    context: dg.AssetExecutionContext
    hub: Hub
    spec: TaskSpec
    directory: Path
    key: dg.AssetKey
    batch: Batch

    async def all(self, numbers: Sequence[int], agents: Mapping[str, Any]) -> list[str]:
        """Work on shards in turn; returns what is wrong with them, a line each."""
        bad: list[str] = []
        checks = load_checks(self.spec)
        for number in numbers:
            tally = Tally()

            def tell(told: Tally) -> None:
                nonlocal tally
                tally = told

            run = self._reference(partition_key(self.batch.id, number))
            agent = agents[self.spec.agent]
            nouns = nouns_of(self.hub, self.directory)
            worker = ShardWorker(nouns, run, self.spec, agent, agents=agents, checks=checks, tell=tell)
            begun = time.monotonic()
            with self._report(number, lambda: tally, lambda told: _told(told, time.monotonic() - begun)):  # noqa: B023
                try:
                    await worker.work(self.batch.id, number)
                except asyncio.CancelledError:
                    await asyncio.shield(self._cancelled(number))
                    raise
            following = numbers[numbers.index(number) + 1 :]
            bad += await asyncio.to_thread(self._end, number, time.monotonic() - begun, following)
        return bad

    def _report(self, number: int, look: Callable[[], Tally], words: Callable[[Tally], dict[str, Any]]) -> ShardReport:
        context = self.context
        materializations = Materializations(context.instance, RunOfEvents(context.run.run_id, context.run.job_name, self._step))
        partition = partition_key(self.batch.id, number)
        return ShardReport(materializations, self.key, partition, look, words, self.hub.clock, context.log.warning)

    @property
    def _step(self) -> str:
        return self.context.get_step_execution_context().step.key

    def _reference(self, partition: str) -> RunRef:
        run = self.context.run
        # Who executes a run again goes on where it stopped: nobody else may be at work then.
        parent = run.parent_run_id
        return RunRef(
            run_id=run.run_id,
            job=run.job_name,
            step=self._step,
            partition=partition,
            parent_run_id=parent,
            resumes=parent is not None,
        )

    async def _cancelled(self, number: int) -> None:
        """Somebody has cancelled the run: its shard is not to be requested again by itself."""
        run_id, batch = self.context.run.run_id, self.batch
        reason = f"run {run_id} was cancelled"

        def cancel(connection: Any) -> None:
            self.hub.batches.cancel_shard(connection, batch.id, number, run_id, reason=reason)
            self.hub.batch_dispatcher.advance(connection, batch.id)

        await self.hub.database.write(cancel)

    def _end(self, number: int, seconds: float, following: Sequence[int]) -> list[str]:
        """Request what comes next, tell Dagster what became of a shard, and return what is wrong with it."""
        with self.hub.database.transaction() as connection:
            self.hub.batch_dispatcher.advance(connection, self.batch.id, held=following)
            shard = self.hub.batches.shard(connection, self.batch.id, number)
            batch = self.hub.batches.get(connection, self.batch.id)
        partition = partition_key(self.batch.id, number)
        if shard is None or batch is None:
            return [f"shard {number} is not in the record any more"]
        if shard.status is ShardStatus.RUNNING and shard.run_id != self.context.run.run_id:
            self.context.log.info(f"shard {number} is worked on by run {shard.run_id}")
            return []
        if shard.status is not ShardStatus.SUCCEEDED:
            if batch.status is BatchStatus.CANCELLED:
                return [f"shard {number}: batch {batch.id} was cancelled: {batch.reason}"]
            return [f"shard {number} is {shard.status}: {shard.reason or 'not all of its items are final'}"]
        metadata = self._metadata(shard, seconds)
        assert self.spec.batch is not None
        if shard.failed and self.spec.batch.failed_items == "fail":
            self.context.log_event(dg.AssetObservation(self.key, partition=partition, metadata=metadata))
            return [f"{shard.failed} of {shard.item_count} items of shard {number} failed"]
        self.context.log_event(dg.AssetMaterialization(self.key, partition=partition, metadata=metadata))
        return []

    def _metadata(self, shard: Shard, seconds: float) -> dict[str, Any]:
        told = _told(Tally(**{name: getattr(shard, name) for name in Tally.model_fields}), seconds)
        found = {
            "batch": self.batch.id,
            "items": shard.item_count,
            "positions": f"{shard.first_position} to {shard.last_position}",
            "tries": shard.attempts,
            **told,
        }
        if shard.failed:
            found |= {"failed_items": dg.MetadataValue.md(poison(self.hub, self.batch, shard=shard))}
        return found


def _told(tally: Tally, seconds: float) -> dict[str, Any]:
    final = tally.done + tally.failed
    rate = {"per_second": round(final / seconds, 2)} if seconds > 0 and final else {}
    return {**tally.model_dump(), **rate, "seconds": round(seconds, 2)}
