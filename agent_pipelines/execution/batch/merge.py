"""Ending a batch: the results in order become one."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import JsonValue
from pydantic_core import to_json, to_jsonable_python

from agent_pipelines.core.batch import BatchStatus, ShardStatus
from agent_pipelines.core.errors import ErrorClass, ExecutionFailed, Stage
from agent_pipelines.core.execution import ExecutionResult, RunRef, Status
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.execution.batch.nouns import BatchNouns
from agent_pipelines.execution.function import load_function
from agent_pipelines.ledger.batch_results import ItemResult
from agent_pipelines.ledger.batches import Batch
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.store.database import Connection

_PAGE = 500  # results read at a time
_INLINE = 1_000_000  # characters of results that make a list in the record; more are only counted there


class Merger:
    """Merges batches. The results are streamed: however many there are, a page of them is in memory."""

    def __init__(self, nouns: BatchNouns) -> None:
        self._nouns = nouns

    async def merge(self, batch_id: str, spec: TaskSpec, *, run: RunRef) -> ExecutionResult:
        """Merge the results of a batch whose shards have all ended, and end it and its execution.

        May be done again by another run if the process died that did it. Raises IllegalTransition if shards have not ended or
        the batch has, StorageError if the record cannot be kept.
        """
        batch = await self._nouns.database.write(lambda connection: self._begin(connection, batch_id, run))
        output: JsonValue = None
        try:
            await self._judge(batch, spec)
            output = await asyncio.to_thread(self._reduce, batch, spec)
        except ExecutionFailed as failed:
            error = (failed.error_class, failed.stage, failed.message)
            return (await self._nouns.database.write(lambda c: self._fail(c, batch, spec, error, run))).result()
        return (await self._nouns.database.write(lambda c: self._succeed(c, batch, spec, output, run))).result()

    def results(self, batch_id: str) -> Iterator[ItemResult]:
        """The results of a batch in order, failed items among them; for plain code, not for the event loop."""
        after = -1
        while True:
            with self._nouns.database.reading() as connection:
                page = self._nouns.ledger.batch_results.page(connection, batch_id, after=after, limit=_PAGE)
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].position

    def write(self, batch_id: str, file: Path) -> int:
        """Write the results of a batch in order to a file, one JSON object on each line; returns how many."""
        count = 0
        with file.open("wb") as out:
            for result in self.results(batch_id):
                out.write(to_json(result) + b"\n")
                count += 1
        return count

    def _begin(self, connection: Connection, batch_id: str, run: RunRef) -> Batch:
        batch = self._nouns.ledger.batches.begin_merge(connection, batch_id)
        self._nouns.ledger.executions.take_up(connection, batch.execution_id, run)
        return batch

    async def _judge(self, batch: Batch, spec: TaskSpec) -> None:
        assert spec.batch is not None
        batches = self._nouns.ledger.batches
        broken = await self._nouns.database.read(lambda c: batches.shards(c, batch.id, status=ShardStatus.FAILED, limit=1))
        if broken:
            words = f"shard {broken[0].number} could not be worked on: {broken[0].reason}"
            raise ExecutionFailed(ErrorClass.INTERNAL, Stage.INVOKE, words)
        if not spec.batch.allows(batch.failed, batch.item_count):
            allowed = "none may" if spec.batch.max_failed is None else f"`max_failed` is {spec.batch.max_failed:g}"
            words = f"{batch.failed} of {batch.item_count} items failed, and {allowed}"
            raise ExecutionFailed(ErrorClass.CHECK, Stage.SETTLE, words)

    def _reduce(self, batch: Batch, spec: TaskSpec) -> JsonValue:
        assert spec.batch is not None
        if spec.batch.reduce == "concat":
            return self._concatenated(batch)
        reduce = load_function(spec.batch.reduce, "batch.reduce")
        try:
            return to_jsonable_python(reduce(self.results(batch.id)))
        except Exception as error:
            words = f"{spec.batch.reduce} raised {type(error).__name__}: {error}"
            raise ExecutionFailed(ErrorClass.CHECK, Stage.SETTLE, words) from error

    def _concatenated(self, batch: Batch) -> JsonValue:
        """The outputs of the items that succeeded, in order; only their number if they are too many for one value."""
        outputs: list[JsonValue] = []
        length = 0
        for result in self.results(batch.id):
            if result.status is not Status.SUCCEEDED:
                continue
            length += len(json.dumps(result.value))
            if length > _INLINE:
                return {"batch": batch.id, "items": batch.done}
            outputs.append(result.value)
        return outputs

    def _succeed(self, connection: Connection, batch: Batch, spec: TaskSpec, output: JsonValue, run: RunRef) -> StoredExecution:
        words = f"{batch.done} items done, {batch.failed} failed, {batch.skipped} skipped"
        self._nouns.ledger.batches.finish(connection, batch.id, BatchStatus.SUCCEEDED)
        closed = self._nouns.ledger.executions.close(
            connection, batch.execution_id, Status.SUCCEEDED, output=output, text=words, run_id=run.run_id
        )
        if spec.emits is not None:
            payload: Mapping[str, JsonValue] = output if isinstance(output, dict) else {"output": output}
            origin = {"source": f"task:{spec.path}", "key": closed.id, "actor": f"task:{spec.path}"}
            self._nouns.inbox.put(connection, spec.emits, dict(payload), workspace=spec.workspace, **origin)
        self._tell(connection, batch, closed, spec)
        return closed

    def _fail(
        self, connection: Connection, batch: Batch, spec: TaskSpec, error: tuple[ErrorClass, Stage, str], run: RunRef
    ) -> StoredExecution:
        self._nouns.ledger.batches.finish(connection, batch.id, BatchStatus.FAILED, reason=error[2])
        closed = self._nouns.ledger.executions.close(
            connection, batch.execution_id, Status.FAILED, error=error, run_id=run.run_id
        )
        self._tell(connection, batch, closed, spec)
        return closed

    def _tell(self, connection: Connection, batch: Batch, closed: StoredExecution, spec: TaskSpec) -> None:
        body: dict[str, JsonValue] = {
            "run_id": closed.run_id,
            "error_class": None if closed.error_class is None else str(closed.error_class),
            "notifications": list(spec.notifications),
            "batch": batch.id,
        }
        self._nouns.ledger.outbox.put(connection, closed.task_key, f"execution.{closed.status}", body, execution_id=closed.id)
