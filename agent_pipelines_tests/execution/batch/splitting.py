"""A batch that is split, in the record of a test, with runs of Dagster that are told by hand."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent_pipelines.core.batch import BatchStatus, ShardStatus
from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.execution import RunRef, Verdict
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.engine.tick import MERGE, SHARD, Tick
from agent_pipelines.execution.batch.dispatch import shards_of
from agent_pipelines.execution.batch.keeper import BatchKeeper
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.batches import Batch, NewShard, Tally
from agent_pipelines.store.database import Database


@dataclass
class Run:
    """A Dagster run, as the keeper sees it."""

    status: str = "STARTED"

    @property
    def is_over(self) -> bool:
        return self.status in ("SUCCESS", "FAILURE", "CANCELED")


@dataclass
class Runs:
    """Dagster's runs: all are at work of which nothing else is said."""

    said: dict[str, Run | None] = field(default_factory=dict[str, Run | None])

    def run(self, run_id: str) -> Run | None:
        return self.said.get(run_id, Run())

    def end(self, run_id: str | None, status: str = "FAILURE") -> None:
        assert run_id is not None
        self.said[run_id] = Run(status)


class Splitted:
    """A batch of shards of ten items, of which the last step of the split is to be done."""

    def __init__(self, database: Database, clock: ManualClock, shards: int, **batch: Any) -> None:
        self.hub = Hub(database, clock)
        self.runs = Runs()
        self.partitions: list[str] = []
        self.keeper = BatchKeeper(
            database, self.hub.ledger, self.hub.batch_dispatcher, self.runs, lambda batch: self.partitions.append(batch.id)
        )
        items = {"items": {"file": str(Path("items.jsonl"))}, "shard_size": 10, **batch}
        self.spec = TaskSpec.model_validate(
            {"name": "audit", "application": "app", "intent": "Look at it", "agent": "writer", "prompt": "Go", "batch": items}
        )
        asked = Invocation(
            application="app",
            task="audit",
            spec_hash=self.spec.spec_hash,
            trigger="nightly",
            origin=Origin.SCHEDULE,
            occurrence="7",
            due_at=7,
            logical_at=5,
        )
        self.split_run = new_id()
        with database.transaction() as connection:
            self.hub.ledger.specs.put(connection, self.spec)
            run = RunRef(run_id=self.split_run)
            execution = self.hub.executions.admit(connection, asked, run, dedupe_key=None, trace_id="t").execution
            opened, _ = self.hub.batches.open(connection, asked, execution_id=execution.id, run_id=self.split_run, shard_size=10)
            self.id = opened.id
            if shards:
                new = [NewShard(number=n, first_position=10 * n, last_position=10 * n + 9) for n in range(shards)]
                self.hub.batches.add_shards(connection, self.id, new)
                self.hub.executions.wait(connection, execution.id, run_id=self.split_run)
                self.hub.batches.split(connection, self.id, items=10 * shards, shards=shards, fingerprint={})

    @property
    def batch(self) -> Batch:
        with self.hub.database.reading() as connection:
            found = self.hub.batches.get(connection, self.id)
        assert found is not None
        return found

    @property
    def status(self) -> BatchStatus:
        return self.batch.status

    def execution_status(self) -> str:
        with self.hub.database.reading() as connection:
            execution = self.hub.executions.get(connection, self.batch.execution_id)
        assert execution is not None
        return str(execution.status)

    def shards(self) -> list[str]:
        with self.hub.database.reading() as connection:
            return [str(shard.status) for shard in self.hub.batches.shards(connection, self.id)]

    def advance(self) -> int:
        with self.hub.database.transaction() as connection:
            return self.hub.batch_dispatcher.advance(connection, self.id)

    def ticks(self, trigger: str = SHARD) -> list[Tick]:
        with self.hub.database.reading() as connection:
            return list(self.hub.ticks.of_part(connection, self.spec.key, trigger, f"{self.id}/"))

    def asked(self) -> list[list[int]]:
        """The shards that open requests ask for."""
        return [list(shards_of(tick)) for tick in self.ticks() if tick.verdict is None]

    def begin(self, tick: Tick) -> str:
        """Do what the run of a request does when it begins; returns its id."""
        run_id = new_id()
        batch = self.batch
        with self.hub.database.transaction() as connection:
            self.hub.ticks.decide(
                connection,
                tick.task_key,
                tick.trigger,
                tick.occurrence,
                Verdict.RAN,
                run_id=run_id,
                execution_id=batch.execution_id,
            )
            if tick.trigger == MERGE:
                self.hub.batches.begin_merge(connection, self.id)
                self.hub.executions.take_up(connection, batch.execution_id, RunRef(run_id=run_id))
            else:
                number = shards_of(tick)[0]
                assert self.hub.batches.claim(connection, self.id, number, run_id, beat_before=0) is not None
        return run_id

    def end(self, number: int, run_id: str, *, failed: int = 0) -> None:
        """Do what a run does at the end of a shard."""
        with self.hub.database.transaction() as connection:
            tally = Tally(done=10 - failed, failed=failed)
            self.hub.batches.beat(connection, self.id, number, run_id, tally)
            assert self.hub.batches.end_shard(connection, self.id, number, run_id, ShardStatus.SUCCEEDED)
            self.hub.batch_dispatcher.advance(connection, self.id)

    def work_off(self, *, failed: int = 0) -> None:
        """Work on all that is asked for, until nothing is; `failed` items of each shard fail."""
        while (tick := next((tick for tick in self.ticks() if tick.verdict is None), None)) is not None:
            run_id = self.begin(tick)
            first, *others = shards_of(tick)
            self.end(first, run_id, failed=failed)
            for number in others:
                with self.hub.database.transaction() as connection:
                    assert self.hub.batches.claim(connection, self.id, number, run_id, beat_before=0) is not None
                self.end(number, run_id, failed=failed)

    def merge(self, status: BatchStatus = BatchStatus.SUCCEEDED) -> None:
        """Do what the run of the merge does."""
        from agent_pipelines.core.errors import ErrorClass, Stage
        from agent_pipelines.core.execution import Status

        self.begin(self.ticks(MERGE)[-1])
        with self.hub.database.transaction() as connection:
            batch = self.hub.batches.finish(connection, self.id, status, reason=None)
            is_good = status is BatchStatus.SUCCEEDED
            self.hub.executions.close(
                connection,
                batch.execution_id,
                Status.SUCCEEDED if is_good else Status.FAILED,
                output=[] if is_good else None,
                error=None if is_good else (ErrorClass.CHECK, Stage.SETTLE, "too many failed"),
            )
