"""What people do with batches: cancel, resume, run again what failed."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from agent_pipelines.core.batch import ENDED_BATCH, BatchStatus
from agent_pipelines.core.errors import AgentPipelinesError
from agent_pipelines.core.execution import FINAL, RunRef, Status
from agent_pipelines.engine.launch import Launch
from agent_pipelines.engine.tick import MERGE, REPAIR
from agent_pipelines.execution.batch.dispatch import Dispatcher
from agent_pipelines.governance.audit import Audit
from agent_pipelines.ledger.batches import Batch
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.ledger.spans import new_trace_id
from agent_pipelines.store.database import Connection, Database


class NotPossible(AgentPipelinesError):
    """A batch does not stand where that can be done."""


@dataclass(frozen=True)
class BatchVerbs:
    """Each verb is one transaction, with its line in the audit."""

    database: Database
    ledger: Ledger
    dispatcher: Dispatcher
    audit: Audit

    def cancel(self, batch_id: str, *, actor: str, reason: str = "cancelled on request") -> Sequence[str]:
        """Cancel a batch; what is done of it stays done, and the batch can be resumed.

        Returns the ids of the runs that work on it: they see it within seconds, ending them is quicker. Raises NotPossible.
        """
        with self.database.transaction() as connection:
            batch = self._locked(connection, batch_id)
            execution = self.ledger.executions.get(connection, batch.execution_id)
            runs = {shard.run_id for shard in self.dispatcher.at_work(connection, batch) if shard.run_id is not None}
            if execution is not None and execution.status is Status.RUNNING:  # it is split or merged
                runs.add(execution.run_id)
            if not self.dispatcher.cancel(connection, batch, reason):
                raise NotPossible(f"batch {batch_id} has ended: it is {batch.status}")
            self._note(connection, batch, "batch.cancel", actor, reason=reason)
        return sorted(runs)

    def resume(self, batch_id: str, *, actor: str) -> int:
        """Carry a failed or cancelled batch on: only what is not done is done. Returns how many shards are to be worked on.

        Raises NotPossible for a batch that has succeeded, or that is at work.
        """
        return self._reopen(batch_id, actor, "batch.resume", {BatchStatus.FAILED, BatchStatus.CANCELLED})

    def rerun_failed(self, batch_id: str, *, actor: str) -> int:
        """Do the failed items of a batch once more, also of one that has succeeded though some failed, and merge again.

        Returns how many shards have some. Raises NotPossible if none has, or if the batch is at work.
        """
        return self._reopen(batch_id, actor, "batch.rerun", ENDED_BATCH)

    def reopen_shards(self, connection: Connection, batch_id: str, numbers: Collection[int], *, actor: str) -> int:
        """Have what is not done of some shards be done by the caller's run; returns how many shards have something.

        Takes part in the caller's transaction. Raises IllegalTransition while the batch is split or merged.
        """
        batch = self._locked(connection, batch_id)
        shards = self.ledger.batches.reopen_shards(connection, batch_id, numbers)
        if shards and batch.status in ENDED_BATCH:
            self._revive(connection, batch)
        if shards:
            self._note(connection, batch, "batch.rerun_shards", actor, shards=", ".join(map(str, sorted(numbers))))
        return shards

    def _reopen(self, batch_id: str, actor: str, action: str, ended: Collection[BatchStatus]) -> int:
        with self.database.transaction() as connection:
            batch = self._locked(connection, batch_id)
            if batch.status not in ended:
                raise NotPossible(f"batch {batch_id} is {batch.status}: there is nothing to be carried on")
            if batch.status is BatchStatus.SUCCEEDED and not batch.failed:
                raise NotPossible(f"no item of batch {batch_id} has failed")
            shards = self.ledger.batches.reopen(connection, batch_id)
            if self._locked(connection, batch_id).status is BatchStatus.SPLITTING:
                self._split_again(connection, batch)
            else:
                self._revive(connection, batch)
                self.dispatcher.advance(connection, batch_id)
            self._note(connection, batch, action, actor, shards=shards)
        return shards

    def _revive(self, connection: Connection, batch: Batch) -> None:
        """Have the execution of a batch wait for the merge again; what has succeeded keeps its result, and another one waits."""
        executions = self.ledger.executions
        stored = executions.get(connection, batch.execution_id)
        run = RunRef(run_id=batch.run_id if stored is None else stored.run_id)
        if stored is not None and stored.status not in FINAL:
            return
        if stored is not None and stored.status in (Status.FAILED, Status.CANCELLED):
            executions.reopen(connection, stored.id, run)
            executions.wait(connection, stored.id, run_id=run.run_id)
            return
        occurrence = self.dispatcher.next_merge(connection, batch)
        again = batch.invocation.model_copy(update={"trigger": MERGE, "occurrence": occurrence})
        admitted = executions.admit(connection, again, run, dedupe_key=None, trace_id=new_trace_id()).execution
        executions.wait(connection, admitted.id, run_id=run.run_id)
        self.ledger.batches.stand_for(connection, batch.id, admitted.id)

    def _split_again(self, connection: Connection, batch: Batch) -> None:
        asked = batch.invocation
        launch = Launch(
            task=batch.path,
            trigger=asked.trigger,
            origin=asked.origin,
            occurrence=asked.occurrence,
            due_at=asked.due_at,
            logical_at=asked.logical_at,
            actor=asked.actor,
            resume=True,
        )
        now = self.dispatcher.clock.now()
        self.dispatcher.ticks.claim(
            connection,
            batch.task_key,
            REPAIR,
            f"{batch.id}/{now}",
            origin=asked.origin,
            due_at=now,
            logical_at=asked.logical_at,
            inputs={"launch": launch.model_dump(mode="json")},
        )

    def _locked(self, connection: Connection, batch_id: str) -> Batch:
        batch = self.ledger.batches.lock(connection, batch_id)
        if batch is None:
            raise NotPossible(f"there is no batch {batch_id}")
        return batch

    def _note(self, connection: Connection, batch: Batch, action: str, actor: str, **details: str | int) -> None:
        details = {"batch": batch.id, **details}
        self.audit.record(connection, actor=actor, action=action, object=batch.path, details=details, workspace=batch.workspace)
