"""Opening a batch: its source is read once, and cut into shards."""

import asyncio
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic_core import to_json

from agent_pipelines.core.batch import BatchStatus
from agent_pipelines.core.errors import (
    AgentPipelinesError,
    DefinitionError,
    ErrorClass,
    Stage,
    StorageError,
)
from agent_pipelines.core.execution import RunRef, Status
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.execution.admit import Admitter
from agent_pipelines.execution.batch.item import Item, keys_by
from agent_pipelines.execution.batch.nouns import BatchNouns
from agent_pipelines.execution.batch.sources import Source, key_of, open_source
from agent_pipelines.execution.batch.unique import UniqueKeys
from agent_pipelines.execution.checks import Gate
from agent_pipelines.execution.compose import upstream_of
from agent_pipelines.execution.work import Failure
from agent_pipelines.ledger.batches import Batch, NewShard
from agent_pipelines.ledger.recordable import recordable
from agent_pipelines.ledger.spans import new_trace_id
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.runtimes.fleet import Agent
from agent_pipelines.store.database import Connection

_SHARDS_AT_ONCE = 16  # written in one transaction
_BYTES_AT_ONCE = 4 * 1_024 * 1_024


@dataclass(frozen=True)
class Split:
    """What became of the request to open a batch.

    `execution` is the one that the batch stands for: it waits while shards are worked on. There is no batch if the execution is
    a duplicate, was skipped by the gate, or failed before its items were looked for.
    """

    outcome: Literal["new", "resumed", "finished", "duplicate"]
    execution: StoredExecution
    batch: Batch | None

    @property
    def is_open(self) -> bool:
        """Whether there are shards to be worked on, or results to be merged."""
        return self.batch is not None and self.batch.finished_at is None


class Splitter:
    """Opens batches. However many items there are, a shard of them at most is in memory."""

    def __init__(self, nouns: BatchNouns) -> None:
        self._nouns = nouns
        self._admitter = Admitter(nouns.database, nouns.clock, nouns.ledger, nouns.ticks)

    async def split(
        self,
        invocation: Invocation,
        spec: TaskSpec,
        agents: Sequence[Agent],
        *,
        run: RunRef,
        gate: Gate | None = None,
    ) -> Split:
        """Admit the invocation of a batch and split its source into shards.

        `agents` are the task's, or those that a broadcast is for. A batch that is open already is left as it is, one that was
        not split to its end is split anew, and one that failed is reopened if `run` resumes it. What is wrong with the source
        ends up in the execution and in the batch; raises StorageError if the record cannot be kept.
        """
        merged = invocation.model_copy(update={"variables": {**spec.variables, **invocation.variables}})
        admission, failure = await self._admitter.admit(merged, spec, run, gate, new_trace_id(), 0)
        stored = admission.execution
        if admission.outcome in ("duplicate", "finished") or stored.status is Status.SKIPPED:
            return Split(admission.outcome, stored, await self._batch_of(stored))
        if failure is not None:
            return Split(admission.outcome, await self._fail(stored, None, failure, run), None)
        known = merged if admission.outcome == "new" else stored.invocation
        base = known.model_copy(update={"spec_hash": stored.spec_hash})
        batch, base = await self._nouns.database.write(lambda connection: self._open(connection, base, spec, stored, run))
        if batch.status is not BatchStatus.SPLITTING:
            waiting = await self._nouns.database.write(
                lambda c: self._nouns.ledger.executions.wait(c, stored.id, run_id=run.run_id)
            )
            return Split(admission.outcome, waiting, batch)
        try:
            batch = await asyncio.to_thread(self._read, batch, base, spec, agents, stored, run)
        except StorageError:
            raise
        except Exception as error:
            words = str(error) if isinstance(error, AgentPipelinesError) else f"{type(error).__name__}: {error}"
            failed = await self._fail(stored, batch, Failure(ErrorClass.CONTEXT, Stage.COMPOSE, words), run)
            return Split(admission.outcome, failed, await self._batch_of(stored))
        return Split(admission.outcome, await self._stored(stored), batch)

    def _open(
        self, connection: Connection, asked: Invocation, spec: TaskSpec, stored: StoredExecution, run: RunRef
    ) -> tuple[Batch, Invocation]:
        assert spec.batch is not None
        batches, composer = self._nouns.ledger.batches, self._nouns.composer
        found = batches.of_execution(connection, stored.id)
        if found is not None:
            if found.finished_at is not None:
                batches.reopen(connection, found.id)
            again = batches.get(connection, found.id)
            assert again is not None
            if again.status is BatchStatus.SPLITTING:
                batches.unsplit(connection, again.id)
            return again, again.invocation
        upstream = upstream_of(connection, self._nouns.ledger, self._nouns.ticks, asked, spec)
        version = composer.version(connection, asked, spec)
        base = asked.model_copy(
            update={
                "upstream": {path: each.text if each.output is None else each.output for path, each in upstream.items()},
                "upstream_executions": {path: each.id for path, each in upstream.items()},
                "prompt_version": None if version is None else version.version,
                "parameters": spec.parameters if version is None else version.parameters,
                "output_schema": spec.output.schema_,
            }
        )
        batch, _ = batches.open(
            connection,
            _without_items(base, spec),
            execution_id=stored.id,
            run_id=run.run_id,
            shard_size=spec.batch.shard_size,
        )
        return batch, base

    def _read(
        self, batch: Batch, base: Invocation, spec: TaskSpec, agents: Sequence[Agent], stored: StoredExecution, run: RunRef
    ) -> Batch:
        """Read the source to its end and record its shards; runs outside the event loop."""
        assert spec.batch is not None
        database, batches = self._nouns.database, self._nouns.ledger.batches
        source = open_source(spec, base, agents, self._nouns.directory)
        key = key_of(spec.batch)
        shards = _Shards(source, batch.shard_size)
        waiting: list[NewShard] = []

        def write() -> None:
            added, waiting[:] = tuple(waiting), []
            database.submit(lambda connection: batches.add_shards(connection, batch.id, added)).result()

        with UniqueKeys() as keys:
            name = keys_by(key)
            some: list[tuple[str, int]] = []
            for item in source.read():
                if key is not None:
                    some.append((name(item), item.position))
                if (full := shards.add(item)) is not None:
                    waiting.append(full)
                    _refuse_doubles(keys, some)
                    if len(waiting) >= _SHARDS_AT_ONCE or sum(len(each.items or b"") for each in waiting) > _BYTES_AT_ONCE:
                        write()
            _refuse_doubles(keys, some)
        waiting += shards.rest()
        write()
        fingerprint = source.fingerprint()

        def split(connection: Connection) -> Batch:
            self._nouns.ledger.executions.wait(connection, stored.id, run_id=run.run_id)
            return batches.split(connection, batch.id, items=shards.items, shards=shards.count, fingerprint=fingerprint)

        return database.submit(split).result()

    async def _fail(self, stored: StoredExecution, batch: Batch | None, failure: Failure, run: RunRef) -> StoredExecution:
        def fail(connection: Connection) -> StoredExecution:
            if batch is not None:
                self._nouns.ledger.batches.finish(connection, batch.id, BatchStatus.FAILED, reason=failure.message)
            closed = self._nouns.ledger.executions.close(
                connection, stored.id, Status.FAILED, error=failure.error, run_id=run.run_id
            )
            body = {"run_id": closed.run_id, "error_class": str(failure.error_class)}
            self._nouns.ledger.outbox.put(connection, closed.task_key, "execution.failed", body, execution_id=closed.id)
            return closed

        return await self._nouns.database.write(fail)

    async def _batch_of(self, stored: StoredExecution) -> Batch | None:
        return await self._nouns.database.read(lambda c: self._nouns.ledger.batches.of_execution(c, stored.id))

    async def _stored(self, stored: StoredExecution) -> StoredExecution:
        found = await self._nouns.database.read(lambda c: self._nouns.ledger.executions.get(c, stored.id))
        assert found is not None
        return found


class _Shards:
    """Cuts a stream of items into shards."""

    def __init__(self, source: Source, size: int) -> None:
        self._keeps = not source.is_seekable
        self._size = size
        self._first: Item | None = None
        self._packed: list[bytes] = []
        self._packer = zlib.compressobj()
        self.items = 0
        self.count = 0

    def add(self, item: Item) -> NewShard | None:
        """Take an item; returns the shard that is full with it."""
        if self._first is None:
            self._first = item
        if self._keeps:
            self._packed.append(self._packer.compress(to_json(recordable(item.value)) + b"\n"))
        self.items += 1
        return self._cut() if self.items % self._size == 0 else None

    def rest(self) -> Sequence[NewShard]:
        """The last shard, if it is not full."""
        return [] if self._first is None else [self._cut()]

    def _cut(self) -> NewShard:
        assert self._first is not None
        number, first = self.count, self._first
        packed = b"".join([*self._packed, self._packer.flush()]) if self._keeps else None
        self._first, self._packed, self._packer = None, [], zlib.compressobj()
        self.count += 1
        return NewShard(
            number=number, first_position=first.position, last_position=self.items - 1, seek_hint=first.offset, items=packed
        )


def _refuse_doubles(keys: UniqueKeys, some: list[tuple[str, int]]) -> None:
    double = keys.add(some)
    some.clear()
    if double is not None:
        key, first, second = double
        fix = "Choose a `key` that tells all items apart, or remove one of the two"
        raise DefinitionError(f"items {first} and {second} are both named {key!r}", field="batch.key", fix=fix)


def _without_items(base: Invocation, spec: TaskSpec) -> Invocation:
    """What all items have in common; the list that they come from is kept with the shards."""
    assert spec.batch is not None
    asset = None if spec.batch.items is None else spec.batch.items.asset
    if asset is None:
        return base
    rest: Mapping[str, object] = {path: value for path, value in base.upstream.items() if path != spec.resolve(asset)}
    return base.model_copy(update={"upstream": rest})
