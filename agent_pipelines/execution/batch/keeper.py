"""Finding what has died of batches, and carrying them on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from agent_pipelines.core.batch import BatchStatus, ShardStatus
from agent_pipelines.core.errors import ErrorClass, Stage
from agent_pipelines.core.execution import FINAL, Status, Verdict
from agent_pipelines.execution.batch.dispatch import Dispatcher
from agent_pipelines.ledger.batches import Batch, Shard
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.store.database import Connection, Database


class RunOfBatch(Protocol):
    """A Dagster run, as far as the keeper asks about it."""

    @property
    def status(self) -> str: ...
    @property
    def is_over(self) -> bool: ...


class Runs(Protocol):
    """What the keeper asks of Dagster; the gateway answers it."""

    def run(self, run_id: str) -> RunOfBatch | None: ...


@dataclass(frozen=True)
class BatchKeeper:
    """Compares live batches with Dagster's runs, and closes or requests again what nobody else will.

    - A shard whose run has ended or is gone: requested again, until it was begun `retry.max_attempts` times; then it has failed.
    - A shard whose run never came, or ended before it began with the shard: failed.
    - A merge whose run was lost: requested again.
    - A split whose run was lost: the batch has failed; resuming the batch splits it.
    - A batch whose execution somebody has cancelled: cancelled.

    It may look anywhere and several at a time: each change is one transaction that looks again.
    """

    database: Database
    ledger: Ledger
    dispatcher: Dispatcher
    runs: Runs
    add_partitions: Callable[[Batch], None]

    def look(self) -> list[str]:
        """Carry on what can be; returns what was done, a line each."""
        with self.database.reading() as connection:
            live = self.ledger.batches.live(connection)
        return [f"batch {batch.id} of {batch.path}: {line}" for batch in live for line in self._keep(batch)]

    def _keep(self, batch: Batch) -> Iterator[str]:
        with self.database.reading() as connection:
            standing, _ = self.ledger.executions.standings(connection, [batch.execution_id]).get(batch.execution_id, ("", 0))
        if standing == Status.CANCELLED:
            yield from self._cancel(batch)
        elif batch.status is BatchStatus.SPLITTING:
            yield from self._keep_split(batch)
        elif batch.status is BatchStatus.RUNNING:
            yield from self._keep_shards(batch)
        else:
            yield from self._keep_merge(batch)

    def _cancel(self, batch: Batch) -> Iterator[str]:
        reason = "its execution was cancelled"
        with self.database.transaction() as connection:
            if not self.dispatcher.cancel(connection, batch, reason):
                return
        yield f"cancelled: {reason}"

    def _keep_split(self, batch: Batch) -> Iterator[str]:
        with self.database.reading() as connection:
            execution = self.ledger.executions.get(connection, batch.execution_id)
            again = self.dispatcher.last_split(connection, batch)
        if execution is not None and execution.status is not Status.RUNNING:
            # It is to be split again, and the run for that has not begun.
            if again is None and execution.status is Status.FAILED:
                reason = execution.error_message or "the run that split it was lost"
            elif again is None or again.verdict is not Verdict.LAUNCH_FAILED:
                return
            else:
                reason = again.reason or "the run that is to split it again did not come"
        else:
            run_id = batch.run_id if execution is None else execution.run_id
            if (how := self._lost(run_id)) is None:
                return
            reason = f"run {run_id} {how} while it split the batch"
        with self.database.transaction() as connection:
            now = self.ledger.batches.lock(connection, batch.id)
            if now is None or now.status is not BatchStatus.SPLITTING:
                return
            self._fail(connection, now, reason)
        yield reason

    def _keep_shards(self, batch: Batch) -> Iterator[str]:
        with self.database.reading() as connection:
            running = self.dispatcher.at_work(connection, batch)
            not_launched = self.dispatcher.not_launched(connection, batch)
            is_stuck = self.dispatcher.is_stuck(connection, batch)
            spec = self.ledger.specs.get(connection, batch.spec_hash)
        attempts = 1 if spec is None else spec.retry.max_attempts
        for shard in running:
            assert shard.run_id is not None
            if (how := self._lost(shard.run_id)) is not None:
                yield from self._lose(batch, shard, f"run {shard.run_id} {how} while it worked on the shard", attempts)
        for number, why in not_launched.items():
            with self.database.transaction() as connection:
                failed = self.ledger.batches.fail_pending(connection, batch.id, number, reason=why)
            if failed:
                yield f"shard {number} failed: {why}"
        if not_launched or is_stuck:
            # Whoever ends a shard requests the next one, who has split a batch the first ones: here nobody did, or nobody will.
            self.add_partitions(batch)
            with self.database.transaction() as connection:
                self.dispatcher.advance(connection, batch.id)

    def _lose(self, batch: Batch, shard: Shard, reason: str, attempts: int) -> Iterator[str]:
        is_last = shard.attempts >= attempts
        to = ShardStatus.FAILED if is_last else ShardStatus.PENDING
        with self.database.transaction() as connection:
            assert shard.run_id is not None
            if not self.ledger.batches.end_shard(connection, batch.id, shard.number, shard.run_id, to, reason=reason):
                return
            self.dispatcher.advance(connection, batch.id)
        yield f"shard {shard.number}: {reason}; {'it failed' if is_last else 'it is requested again'}"

    def _keep_merge(self, batch: Batch) -> Iterator[str]:
        with self.database.reading() as connection:
            last = self.dispatcher.last_merge(connection, batch)
            execution = self.ledger.executions.get(connection, batch.execution_id)
            spec = self.ledger.specs.get(connection, batch.spec_hash)
        if last is None or last.verdict is None or execution is None:
            return
        if last.verdict is Verdict.RAN:
            # One that died before it took the execution up has left it waiting, as the run that split the batch did.
            run_id = last.run_id or execution.run_id
            how = self._lost(run_id)
            if how is None or execution.status is Status.SUCCEEDED:
                return
            reason = f"run {run_id} {how} while it merged"
        else:
            reason = last.reason or "the run of its merge did not come"
        requests = int(last.occurrence.rpartition("/")[2]) + 1
        is_over = last.verdict is not Verdict.RAN or spec is None or requests >= spec.retry.max_attempts
        with self.database.transaction() as connection:
            now = self.ledger.batches.lock(connection, batch.id)
            if now is None or now.status is not BatchStatus.MERGING or self.dispatcher.last_merge(connection, now) != last:
                return
            if is_over:
                self._fail(connection, now, reason)
            else:
                self.dispatcher.request_merge(connection, now)
        yield f"{reason}; {'it failed' if is_over else 'it is requested again'}"

    def _fail(self, connection: Connection, batch: Batch, reason: str) -> None:
        self.ledger.batches.finish(connection, batch.id, BatchStatus.FAILED, reason=reason)
        execution = self.ledger.executions.get(connection, batch.execution_id)
        if execution is not None and execution.status not in FINAL:
            error = (ErrorClass.INTERNAL, Stage.INVOKE, reason)
            self.ledger.executions.close(connection, execution.id, Status.FAILED, error=error)

    def _lost(self, run_id: str) -> str | None:
        """How a run has ended, None as long as it has not."""
        run = self.runs.run(run_id)
        if run is None:
            return "is gone"
        return f"ended ({run.status})" if run.is_over else None
