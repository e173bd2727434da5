"""Writing what happens to the items of a shard, many of them in one transaction."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from agent_pipelines.core.errors import AgentPipelinesError, StorageError
from agent_pipelines.core.execution import Status
from agent_pipelines.execution.batch.nouns import BatchNouns
from agent_pipelines.ledger.batches import Tally
from agent_pipelines.ledger.items import BegunAttempt, BegunItem, EndedAttempt, EndedItem, ItemsOf
from agent_pipelines.ledger.journal import Entry
from agent_pipelines.ledger.spans import Span
from agent_pipelines.store.bulk import bundled
from agent_pipelines.store.database import Connection

_PACE = 0.02  # seconds from one group to the next at least, so that there is something in it
_BEAT = 1.0  # seconds after which a group is written though there is nothing in it
_PATIENCE = 60.0  # seconds for which the database may fail before the shard is given up


class ShardLost(AgentPipelinesError):
    """The shard is no longer this run's: it was cancelled, or another run has taken it."""


@dataclass
class Group:
    """What is written together; those who have put something in wait for `written`, and look at `error` then."""

    admitted: list[BegunItem] = field(default_factory=list[BegunItem])
    resumed: list[BegunItem] = field(default_factory=list[BegunItem])
    started: list[BegunAttempt] = field(default_factory=list[BegunAttempt])
    entries: list[tuple[str, Entry]] = field(default_factory=list[tuple[str, Entry]])
    ended_attempts: list[EndedAttempt] = field(default_factory=list[EndedAttempt])
    ended: list[EndedItem] = field(default_factory=list[EndedItem])
    spans: list[tuple[str, Span]] = field(default_factory=list[tuple[str, Span]])
    versions: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    skipped: int = 0
    written: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None


class GroupWriter:
    """Writes for one shard. Everything that a group holds is durable together, or nothing is.

    `in_flight` names the executions that are worked on, `gone` is told which of them somebody else has ended, `ended` how many
    have ended while a group was written, `tell` what the shard has come to.
    """

    def __init__(
        self,
        nouns: BatchNouns,
        of: ItemsOf,
        tally: Tally,
        *,
        in_flight: Callable[[], Sequence[str]],
        gone: Callable[[Iterable[str]], None],
        ended: Callable[[int], None],
        tell: Callable[[Tally], None],
    ) -> None:
        self._nouns = nouns
        self._of = of
        self._in_flight = in_flight
        self._gone = gone
        self._ended = ended
        self._tell = tell
        self._group = Group()
        self._some = asyncio.Event()
        self._is_closing = False
        self._told: set[str] = set()
        self.tally = tally
        self.error: Exception | None = None

    @property
    def group(self) -> Group:
        """The group that is written next. What is put in must be followed by `hand_in` or `put`, without waiting in between."""
        return self._group

    def hand_in(self) -> Group:
        """Have the group written soon; returns it."""
        self._some.set()
        return self._group

    async def put(self) -> None:
        """Have the group written, and wait until it is durable. Raises ShardLost or StorageError if it cannot be."""
        group = self.hand_in()
        if self.error is not None:
            raise self.error
        await group.written.wait()
        if group.error is not None:
            raise group.error

    async def run(self) -> None:
        """Write groups until `close`. Raises ShardLost, or StorageError if the database fails for a minute."""
        loop = asyncio.get_running_loop()
        next_look = loop.time() + _BEAT
        while not self._is_closing or self._some.is_set():
            await self._until_some(next_look - loop.time())
            self._some.clear()
            group, self._group = self._group, Group()
            is_look = loop.time() >= next_look
            if is_look:
                next_look = loop.time() + _BEAT
            try:
                await self._write(group, self._in_flight() if is_look else ())
            except Exception as error:
                self.error = error
                for each in (group, self._group):
                    each.error = error
                    each.written.set()
                raise
            group.written.set()
            if not self._is_closing:
                await asyncio.sleep(_PACE)

    def close(self) -> None:
        """Have `run` return when all is written."""
        self._is_closing = True
        self._some.set()

    async def _until_some(self, seconds: float) -> None:
        if not self._some.is_set() and seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._some.wait()
            except TimeoutError:
                pass

    async def _write(self, group: Group, looked_at: Sequence[str]) -> None:
        clock = self._nouns.clock
        until = clock.now() + round(_PATIENCE * 1_000_000)
        while True:
            try:
                tally, gone = await self._nouns.database.write(lambda connection: self._put(connection, group, looked_at))
                break
            except StorageError:
                if clock.now() >= until:
                    raise
                await clock.sleep(_BEAT)
        self.tally = tally
        self._ended(len(self._group.ended))
        self._tell(tally)
        if gone:
            self._told |= gone
            self._gone(gone)

    def _put(self, connection: Connection, group: Group, looked_at: Sequence[str]) -> tuple[Tally, set[str]]:
        ledger, of = self._nouns.ledger, self._of
        run_id = of.run.run_id
        # First, because it waits for whoever takes the shard away, and nothing must be written after that.
        if not ledger.batches.hold(connection, of.batch_id, of.shard, run_id):
            raise ShardLost(f"shard {of.shard} of batch {of.batch_id} is no longer worked on by run {run_id}")
        with bundled(connection):
            return self._put_all(connection, group, looked_at)

    def _put_all(self, connection: Connection, group: Group, looked_at: Sequence[str]) -> tuple[Tally, set[str]]:
        ledger, of = self._nouns.ledger, self._of
        run_id = of.run.run_id
        if group.admitted:
            ledger.executions.admit_items(connection, of, group.admitted)
        if group.resumed:
            ledger.executions.resume_items(connection, of, group.resumed)
        ledger.journal.append_many(connection, group.entries)
        ledger.executions.attempts.finish_many(connection, group.ended_attempts)
        if group.started:
            ledger.executions.start_attempts(connection, group.started, run_id=run_id)
        tally = self.tally
        if group.ended:
            tally = self._end(connection, group)
        if group.skipped:
            tally = tally.model_copy(update={"skipped": tally.skipped + group.skipped})
        gone: set[str] = set()
        if looked_at:
            standings = ledger.executions.standings(connection, looked_at)
            cancelled = {each for each, (status, _) in standings.items() if status == Status.CANCELLED}
            # By somebody, one by one: such an end is not counted with those of the group.
            gone = cancelled - {each.id for each in group.ended}
            tally = tally.model_copy(update={"failed": tally.failed + len(gone - self._told)})
        ledger.batches.beat(connection, of.batch_id, of.shard, run_id, tally)
        return tally, gone

    def _end(self, connection: Connection, group: Group) -> Tally:
        ledger, task = self._nouns.ledger, self._of.base.task_key
        closed = ledger.executions.end_items(connection, self._of, group.ended)
        ledger.spans.append_many(connection, group.spans)
        ledger.item_versions.put_many(connection, task, [each for each in group.versions if each[2] in closed])
        counted = [each for each in group.ended if each.id in closed]
        failed = [each for each in counted if each.status is Status.FAILED]
        body = {"run_id": self._of.run.run_id, "batch": self._of.batch_id}
        # What succeeded is told by the batch, once.
        ledger.outbox.put_many(
            connection,
            task,
            [("execution.failed", each.id, {**body, "error_class": str(each.error[0])}) for each in failed if each.error],
        )
        tally = self.tally
        return tally.model_copy(
            update={
                "done": tally.done + sum(each.status is Status.SUCCEEDED for each in counted),
                "failed": tally.failed + len(failed),
                "cost_usd": tally.cost_usd + sum(each.spent.cost_usd or 0.0 for each in counted),
                "tokens": tally.tokens + sum(each.spent.total_tokens or 0 for each in counted),
            }
        )
