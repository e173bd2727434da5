"""Requesting the runs of a batch: its shards, some at a time, and then its merge."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent_pipelines.core.batch import BatchStatus, ShardStatus
from agent_pipelines.core.clock import Clock
from agent_pipelines.core.execution import Verdict
from agent_pipelines.engine.launch import RunOf, tag
from agent_pipelines.engine.tick import MERGE, REPAIR, SHARD, Tick
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.execution.batch.names import merge_job, partition_key, shards_job
from agent_pipelines.ledger.batches import Batch, Shard
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.store.database import Connection

_PARTITION = "dagster/partition"
_FIRST, _LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
_ALL = 1_000_000_000


@dataclass(frozen=True)
class Dispatcher:
    """Claims the ticks that carry batches on. All methods take part in the caller's transaction.

    `advance` looks at where a batch stands and claims what is missing. Anybody may call it at any time: who has split the
    batch, who ends a shard, who finds one that was lost.
    """

    clock: Clock
    ticks: Ticks
    ledger: Ledger

    def advance(self, connection: Connection, batch_id: str, *, held: Collection[int] = ()) -> int:
        """Request the next runs of a batch, as many as it may have at once; returns how many.

        `held` are shards that the caller's run will work on next. When no shard is left it requests the merge; a batch of which
        shards were cancelled is cancelled instead.
        """
        batches = self.ledger.batches
        batch = batches.lock(connection, batch_id)
        spec = None if batch is None else self.ledger.specs.get(connection, batch.spec_hash)
        if batch is None or batch.status is not BatchStatus.RUNNING or spec is None or spec.batch is None:
            return 0
        running = self.at_work(connection, batch)
        pending = batches.shards(connection, batch_id, status=ShardStatus.PENDING, limit=_ALL)
        if not running and not pending:
            return self._end(connection, batch)
        requests = self._requests(connection, batch, SHARD)
        at_work = {shard.run_id for shard in running}
        # A run of several shards has begun with one of them, and will go on with the others.
        awaited = {number for tick in requests if tick.verdict is None or tick.run_id in at_work for number in shards_of(tick)}
        awaited |= set(held)
        free = spec.batch.concurrency - sum(tick.verdict is None for tick in requests) - len(at_work) - bool(held)
        claimed = 0
        for together in _neighbours((each for each in pending if each.number not in awaited), spec.batch.shards_per_run):
            if claimed >= free:
                break
            claimed += self._request(connection, batch, together)
        return claimed

    def request_merge(self, connection: Connection, batch: Batch) -> None:
        """Request the merge of a batch, once more if it was requested before."""
        run = RunOf(job=merge_job(batch.task_key), tags={tag("batch"): batch.id})
        self._claim(connection, batch, MERGE, self.next_merge(connection, batch), run)

    def next_merge(self, connection: Connection, batch: Batch) -> str:
        """The occurrence of the next request to merge a batch."""
        return f"{batch.id}/{len(self._requests(connection, batch, MERGE))}"

    def last_split(self, connection: Connection, batch: Batch) -> Tick | None:
        """The last request to split a batch again."""
        return next(reversed(self._requests(connection, batch, REPAIR)), None)

    def last_merge(self, connection: Connection, batch: Batch) -> Tick | None:
        """The last request to merge a batch."""
        return next(reversed(self._requests(connection, batch, MERGE)), None)

    def not_launched(self, connection: Connection, batch: Batch) -> Mapping[int, str]:
        """Pending shards whose last request came to nothing, since the batch was reopened last, and why."""
        pending = {
            each.number for each in self.ledger.batches.shards(connection, batch.id, status=ShardStatus.PENDING, limit=_ALL)
        }
        last = {number: tick for tick in self._requests(connection, batch, SHARD) for number in shards_of(tick)}
        return {
            number: tick.reason or "its run did not come"
            for number, tick in last.items()
            if number in pending and tick.verdict is Verdict.LAUNCH_FAILED and tick.claimed_at >= (batch.reopened_at or 0)
        }

    def is_stuck(self, connection: Connection, batch: Batch) -> bool:
        """Whether nothing is asked for and nobody is at work, though the batch is running."""
        running = self.ledger.batches.shards(connection, batch.id, status=ShardStatus.RUNNING, limit=1)
        return not running and all(tick.verdict is not None for tick in self._requests(connection, batch, SHARD))

    def at_work(self, connection: Connection, batch: Batch) -> Sequence[Shard]:
        """The shards of a batch that runs work on."""
        return self.ledger.batches.shards(connection, batch.id, status=ShardStatus.RUNNING, limit=_ALL)

    def cancel(self, connection: Connection, batch: Batch, reason: str) -> bool:
        """Cancel a batch with all that is not done of it and all that is requested; False if it has ended."""
        if self.ledger.batches.cancel(connection, batch.id, reason) is None:
            return False
        self.ledger.executions.cancel_items(connection, batch.id, reason)
        self.ledger.executions.cancel(connection, batch.execution_id, reason)
        for tick in (*self._requests(connection, batch, SHARD), *self._requests(connection, batch, MERGE)):
            if tick.verdict is None:
                self.ticks.decide(connection, tick.task_key, tick.trigger, tick.occurrence, Verdict.SKIPPED, reason=reason)
        return True

    def _end(self, connection: Connection, batch: Batch) -> int:
        batches = self.ledger.batches
        cancelled = batches.shards(connection, batch.id, status=ShardStatus.CANCELLED, limit=21)
        if cancelled:
            named = ", ".join(str(shard.number) for shard in cancelled[:20]) + (" and more" if len(cancelled) > 20 else "")
            reason = f"shards were cancelled: {named}"
            batches.finish(connection, batch.id, BatchStatus.CANCELLED, reason=reason)
            self.ledger.executions.cancel(connection, batch.execution_id, reason)
            return 0
        batches.begin_merge(connection, batch.id)
        self.request_merge(connection, batch)
        return 1

    def _request(self, connection: Connection, batch: Batch, shards: Sequence[Shard]) -> int:
        first, last = (partition_key(batch.id, shard.number) for shard in (shards[0], shards[-1]))
        partition = {_PARTITION: first} if len(shards) == 1 else {_FIRST: first, _LAST: last}
        run = RunOf(job=shards_job(batch.task_key), tags={tag("batch"): batch.id, **partition})
        numbers = [shard.number for shard in shards]
        before = len(self._requests(connection, batch, SHARD, f"{numbers[0]}/"))
        return self._claim(connection, batch, SHARD, f"{batch.id}/{numbers[0]}/{before}", run, shards=numbers)

    def _claim(
        self, connection: Connection, batch: Batch, trigger: str, occurrence: str, run: RunOf, *, shards: Sequence[int] = ()
    ) -> int:
        asked = batch.invocation
        _, is_new = self.ticks.claim(
            connection,
            batch.task_key,
            trigger,
            occurrence,
            origin=asked.origin,
            due_at=self.clock.now(),
            logical_at=asked.logical_at,
            actor=asked.actor,
            inputs={"batch": batch.id, "shards": list(shards), "run": run.model_dump(mode="json")},
        )
        return int(is_new)

    def _requests(self, connection: Connection, batch: Batch, trigger: str, below: str = "") -> Sequence[Tick]:
        return self.ticks.of_part(connection, batch.task_key, trigger, f"{batch.id}/{below}")


def shards_of(tick: Tick) -> Sequence[int]:
    """The numbers of the shards that a tick asks for."""
    asked = tick.inputs.get("shards")
    return [number for number in asked if isinstance(number, int)] if isinstance(asked, list) else []


def _neighbours(shards: Iterable[Shard], limit: int) -> Iterator[Sequence[Shard]]:
    """Shards in parts of at most so many that follow each other without a gap: a run takes a range of partitions."""
    part: list[Shard] = []
    for shard in shards:
        if part and (len(part) == limit or shard.number != part[-1].number + 1):
            yield part
            part = []
        part.append(shard)
    if part:
        yield part
