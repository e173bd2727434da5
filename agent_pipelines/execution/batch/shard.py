"""Working on a shard: many items at once on one event loop, written in groups."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent_pipelines.core.batch import ShardStatus
from agent_pipelines.core.errors import AgentPipelinesError, StorageError
from agent_pipelines.core.execution import RunRef, Status
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.execution.batch.feed import Fed, Feed, is_final
from agent_pipelines.execution.batch.item_work import Earlier, ItemWorker
from agent_pipelines.execution.batch.nouns import BatchNouns
from agent_pipelines.execution.batch.slots import Slot, Slots
from agent_pipelines.execution.batch.sources import open_source
from agent_pipelines.execution.batch.writer import GroupWriter, ShardLost
from agent_pipelines.execution.checks import Check
from agent_pipelines.ledger.batches import Batch, Shard, Tally
from agent_pipelines.ledger.items import ItemsOf, Standing
from agent_pipelines.runtimes.fleet import Agent
from agent_pipelines.store.database import Connection

LOST_AFTER = 30_000_000
"""Microseconds without a beat after which another run may take a shard."""

_OPEN = 4  # times as many items may be open as are worked on at once: the others wait for their next attempt


@dataclass(frozen=True)
class ShardOutcome:
    """What a run did of a shard: the shard as it stands then, None if another run is at work or there is nothing to do."""

    shard: Shard | None


@dataclass(frozen=True)
class _Found:
    """What a run finds of a shard that it has claimed."""

    batch: Batch
    shard: Shard
    standings: Sequence[Standing]
    earlier: Mapping[str, Earlier]
    tally: Tally


class ShardWorker:
    """Works on shards of one task in one Dagster run.

    `agent` is the task's; a broadcast looks up the others in `agents`. `tell` is called on the event loop with the tally of the
    shard after each group of writes; it must return at once.
    """

    def __init__(
        self,
        nouns: BatchNouns,
        run: RunRef,
        spec: TaskSpec,
        agent: Agent,
        *,
        agents: Mapping[str, Agent] | None = None,
        checks: Sequence[Check] = (),
        tell: Callable[[Tally], None] = lambda tally: None,
    ) -> None:
        self._nouns = nouns
        self._run = run
        self._spec = spec
        self._agent = agent
        self._agents = {agent.name: agent, **(agents or {})}
        self._checks = checks
        self._tell = tell

    async def work(self, batch_id: str, number: int) -> ShardOutcome:
        """Work on a shard until all its items are final.

        What an earlier run has finished is not done again; what it was doing when it died goes on as a further attempt.
        Cancelling it cancels what is in flight, records that, and gives the shard back. Raises StorageError if the database
        fails for a minute.
        """
        database, batches = self._nouns.database, self._nouns.ledger.batches
        found = await database.write(lambda connection: self._claim(connection, batch_id, number))
        if found is None:
            return ShardOutcome(None)
        try:
            reason, skipped = await self._carry(found)
        except asyncio.CancelledError:
            await asyncio.shield(self._give_back(batch_id, number, "the run was cancelled"))
            raise
        except ShardLost:
            return ShardOutcome(await database.read(lambda c: batches.shard(c, batch_id, number)))
        status = ShardStatus.SUCCEEDED if reason is None else ShardStatus.FAILED
        await database.write(lambda connection: self._end(connection, found, status, reason, skipped))
        return ShardOutcome(await database.read(lambda c: batches.shard(c, batch_id, number)))

    def _claim(self, connection: Connection, batch_id: str, number: int) -> _Found | None:
        ledger, run = self._nouns.ledger, self._run
        batch = ledger.batches.get(connection, batch_id)
        if batch is None:
            return None
        beat_before = self._nouns.clock.now() - LOST_AFTER
        parent = run.parent_run_id if run.resumes else None
        shard = ledger.batches.claim(connection, batch_id, number, run.run_id, beat_before=beat_before, parent=parent)
        if shard is None:
            return None
        standings = ledger.executions.standings_of_shard(connection, batch_id, number)
        again = [each for each in standings if not is_final(each, batch.reopened_at)]
        ids = [each.id for each in again]
        spent = ledger.executions.attempts.spent(connection, ids)
        seqs = ledger.journal.last_seqs(connection, ids)
        earlier = {each.id: Earlier.of(each, spent, seqs) for each in again}
        tally = ledger.executions.tally_of_shard(connection, batch_id, number)
        # A failure that is to be done again is none any more.
        failed = tally.failed - sum(each.status in (Status.FAILED, Status.CANCELLED) for each in again)
        tally = tally.model_copy(update={"failed": failed})
        ledger.batches.beat(connection, batch_id, number, run.run_id, tally)
        return _Found(batch, shard, standings, earlier, tally)

    def _end(self, connection: Connection, found: _Found, status: ShardStatus, reason: str | None, skipped: int) -> None:
        ledger, run_id = self._nouns.ledger, self._run.run_id
        batch_id, number = found.batch.id, found.shard.number
        if ledger.batches.hold(connection, batch_id, number, run_id):
            # By the executions, once more: of a group whose commit was answered late the running count may not know.
            tally = ledger.executions.tally_of_shard(connection, batch_id, number)
            tally = tally.model_copy(update={"skipped": skipped})
            ledger.batches.beat(connection, batch_id, number, run_id, tally)
            ledger.batches.end_shard(connection, batch_id, number, run_id, status, reason=reason)

    async def _carry(self, found: _Found) -> tuple[str | None, int]:
        """Work on all items; returns why that could not be done, if it could not, and how many were skipped."""
        assert self._spec.batch is not None
        in_flight: dict[str, asyncio.Task[None]] = {}
        slots = Slots(self._spec.batch.in_flight)
        of = ItemsOf(found.batch.id, found.shard.number, found.batch.invocation, self._run)

        def stop(ids: Iterable[str]) -> None:
            for execution_id in ids:
                if (task := in_flight.get(execution_id)) is not None:
                    task.cancel()

        writer = GroupWriter(
            self._nouns, of, found.tally, in_flight=lambda: list(in_flight), gone=stop, ended=slots.go_ahead, tell=self._tell
        )
        worker = await self._item_worker(found, of, writer)
        writing = asyncio.create_task(writer.run())
        feeding = asyncio.create_task(self._feed(found, worker, writer, slots, in_flight))
        try:
            await asyncio.wait((writing, feeding), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # The feeder first: nothing begins any more. Then the items, which say how they end; then what they have said.
            await _end(feeding)
            await _end(*in_flight.values())
            writer.close()
            await asyncio.wait((writing,))
        if (error := writing.exception()) is not None:
            raise error
        return feeding.result(), writer.tally.skipped

    async def _item_worker(self, found: _Found, of: ItemsOf, writer: GroupWriter) -> ItemWorker:
        parent_id, composer, spec = found.batch.execution_id, self._nouns.composer, self._spec
        parent, version = await self._nouns.database.read(
            lambda c: (self._nouns.ledger.executions.get(c, parent_id), composer.pinned(c, found.batch.invocation, spec))
        )
        assert parent is not None
        return ItemWorker(
            self._nouns,
            of,
            spec,
            self._agent,
            self._agents,
            self._checks,
            parent,
            version,
            writer,
            self._nouns.attempting,
            found.earlier,
        )

    async def _feed(
        self, found: _Found, worker: ItemWorker, writer: GroupWriter, slots: Slots, in_flight: dict[str, asyncio.Task[None]]
    ) -> str | None:
        assert self._spec.batch is not None
        agents = list(self._agents.values())
        base, directory = found.batch.invocation, self._nouns.directory
        feed = Feed(
            self._nouns,
            self._spec,
            found.batch,
            found.shard,
            found.standings,
            lambda: open_source(self._spec, base, agents, directory),
        )
        places = asyncio.Semaphore(_OPEN * self._spec.batch.in_flight)
        errors: list[Exception] = []

        async def carry(fed: Fed, execution_id: str, slot: Slot) -> None:
            try:
                await worker.work(fed, execution_id, slot)
            except ShardLost:
                raise
            except Exception as error:
                errors.append(error)  # its record could not be kept: the shard is not done
                raise
            finally:
                in_flight.pop(execution_id, None)
                slot.leave()
                places.release()

        try:
            async for page in await feed.pages():
                if page.skipped:
                    writer.hand_in().skipped += page.skipped
                for fed in page.items:
                    await places.acquire()
                    slot = await slots.come()
                    execution_id = worker.id_of(fed)
                    in_flight[execution_id] = asyncio.create_task(carry(fed, execution_id, slot))
        except StorageError:
            raise
        except AgentPipelinesError as error:
            await _all(in_flight.values())
            return str(error)
        await _all(in_flight.values())
        if errors:
            raise errors[0]
        return None

    async def _give_back(self, batch_id: str, number: int, reason: str) -> None:
        batches, executions, run_id = self._nouns.ledger.batches, self._nouns.ledger.executions, self._run.run_id

        def give_back(connection: Connection) -> None:
            if batches.end_shard(connection, batch_id, number, run_id, ShardStatus.PENDING, reason=reason):
                executions.cancel_items(connection, batch_id, reason, shard=number)

        await self._nouns.database.write(give_back)


async def _all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Wait for tasks. One that fails does so with the writer, which says why; one may have been cancelled by itself."""
    waiting = list(tasks)
    if waiting:
        await asyncio.wait(waiting)


async def _end(*tasks: asyncio.Task[None] | asyncio.Task[str | None]) -> None:
    """Cancel tasks that have not ended, and wait until they have."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
