"""Working on one item of a shard: attempts, until one succeeds or no further one is due."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from pydantic import JsonValue

from agent_pipelines.context.prompts import PromptVersion
from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.errors import ErrorClass, ExecutionFailed, IllegalTransition, Stage, StorageError
from agent_pipelines.core.event import Usage
from agent_pipelines.core.execution import Status
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.execution.attempt import Attempting
from agent_pipelines.execution.attempt_span import add_attempt
from agent_pipelines.execution.batch.feed import Fed
from agent_pipelines.execution.batch.item_recorder import ItemRecorder
from agent_pipelines.execution.batch.nouns import BatchNouns
from agent_pipelines.execution.batch.slots import Slot
from agent_pipelines.execution.batch.writer import GroupWriter, ShardLost
from agent_pipelines.execution.checks import Check
from agent_pipelines.execution.pricing import price
from agent_pipelines.execution.retry import Decision, decide_for
from agent_pipelines.execution.work import Failure, Success, Waiting, Work
from agent_pipelines.ledger.items import BegunAttempt, BegunItem, EndedAttempt, EndedItem, ItemsOf, Standing
from agent_pipelines.ledger.recordable import recordable
from agent_pipelines.ledger.spans import Trace, new_span_id, new_trace_id
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.runtimes.fleet import Agent

Result = TypeVar("Result")

_NOTHING = Usage()
_PATIENCE = 60_000_000  # microseconds for which the database may fail


@dataclass(frozen=True, slots=True)
class Earlier:
    """What earlier runs have left of an item: tokens and money, whether a price is missing, lost attempts, entries."""

    usage: Usage = _NOTHING
    is_unpriced: bool = False
    lost: int = 0
    journal_seq: int = 0

    @classmethod
    def of(cls, standing: Standing, spent: Mapping[str, tuple[Usage, bool, int]], seqs: Mapping[str, int]) -> "Earlier":
        """What is known of an execution that is to be gone on with."""
        usage, is_unpriced, lost = spent.get(standing.id, (Usage(), False, 0))
        # One whose process died at its last attempt is not asked once more, for it may be what the process dies of.
        return cls(usage, is_unpriced, lost if standing.status is Status.RUNNING else 0, seqs.get(standing.id, 0))


@dataclass
class _Spent:
    """What an item has used, as the row of its execution has it."""

    usage: Usage
    is_unpriced: bool

    def add(self, usage: Usage) -> None:
        self.usage = usage if self.usage == _NOTHING else self.usage + usage
        self.is_unpriced = self.is_unpriced or (usage.cost_usd is None and bool(usage.total_tokens))

    def total(self) -> Usage:
        # A sum of the known prices only would look like a total and be too low.
        return self.usage.model_copy(update={"cost_usd": None}) if self.is_unpriced else self.usage


@dataclass(frozen=True)
class ItemWorker:
    """Works on the items of one shard. What happens to one of them harms no other."""

    nouns: BatchNouns
    of: ItemsOf
    spec: TaskSpec
    agent: Agent
    agents: Mapping[str, Agent]
    checks: Sequence[Check]
    parent: StoredExecution
    version: PromptVersion | None
    writer: GroupWriter
    attempting: Attempting
    earlier: Mapping[str, Earlier]

    @cached_property
    def _common(self) -> dict[str, JsonValue]:
        # The bodies of dependencies are found by `upstream_executions`: a copy with each item would be most of the record.
        recorded = recordable(self.of.base.model_dump(mode="json") | {"upstream": {}})
        assert isinstance(recorded, dict)
        return recorded

    @cached_property
    def _like(self) -> dict[str, Any]:
        return dict(vars(self.parent))

    @cached_property
    def _repeats(self) -> int:
        """How often an item is asked for again that was lost while its agent was at work."""
        if self.agent.capabilities.honours_idempotency_key:
            return self.spec.retry.max_attempts
        return self.spec.retry.resumptions(at_work=True)

    def id_of(self, fed: Fed) -> str:
        """The id of the execution of an item, a new one if it has none."""
        return new_id() if fed.standing is None else fed.standing.id

    async def work(self, fed: Fed, execution_id: str, slot: Slot) -> None:
        """Work on an item until its end is durable. It has come for a slot, and leaves it as soon as its agent has answered.

        Cancelling it cancels the agent's work and leaves the record of that to the next group.
        Raises ShardLost or StorageError if the record cannot be kept.
        """
        work = self._work(fed, execution_id)
        earlier = self.earlier.get(execution_id, Earlier())
        spent = _Spent(earlier.usage, earlier.is_unpriced)
        if earlier.lost >= self.spec.retry.max_attempts or earlier.lost > self._repeats:
            words = f"its process died while its agent was at work ({earlier.lost} of its attempts)"
            await self._refuse(work, fed, spent, Failure(ErrorClass.UNKNOWN_OUTCOME, Stage.INVOKE, words))
            return
        work.journal_seq = earlier.journal_seq
        outcome: Success | Failure | None = None
        has_begun = False
        try:
            work.place = await self._patiently(lambda: self.nouns.router.place(work))
            composed = self.nouns.composer.compose_item(work.invocation, self.spec, self.version)
            work.invocation = composed.invocation
            self._put_begun(work, fed, composed.trimmed, is_asked=True)
            has_begun = True
            await self.writer.put()
            outcome = await self._attempts(work, fed, spent, slot)
        except (ShardLost, StorageError, IllegalTransition):
            raise
        except ExecutionFailed as failed:
            outcome = Failure(failed.error_class, failed.stage, failed.message)
            await self._refuse(work, fed, spent, outcome)
        except Exception as error:
            outcome = Failure(ErrorClass.INTERNAL, Stage.SETTLE, f"{type(error).__name__}: {error}")
            if not has_begun:
                await self._refuse(work, fed, spent, outcome)
            else:
                self._put_end(work, fed, spent, outcome, Status.FAILED)
                await self.writer.put()
        finally:
            await self.nouns.router.leave(work, outcome)

    async def _attempts(self, work: Work, fed: Fed, spent: _Spent, slot: Slot) -> Success | Failure:
        while True:
            recorder = self._recorder(work)
            started_at = self.nouns.clock.now()
            try:
                outcome = await self._ask(work, recorder, slot)
            except asyncio.CancelledError:
                self._put_attempt(work, recorder, spent, started_at, "cancelled", None, None)
                self._put_end(work, fed, spent, _CANCELLED, Status.CANCELLED)
                self.writer.hand_in()
                raise
            work.journal_seq = recorder.seq
            decision = None if isinstance(outcome, Success) else decide_for(work, outcome, self.nouns.clock.now())
            status = "succeeded" if decision is None else "failed"
            self._put_attempt(work, recorder, spent, started_at, status, outcome, decision)
            if decision is None or decision.delay is None:
                self._put_end(work, fed, spent, outcome, Status.SUCCEEDED if decision is None else Status.FAILED)
                await self.writer.put()
                return outcome
            assert isinstance(outcome, Failure)
            work.inner_tries += outcome.tries - 1
            await self._until_retry(work, fed, spent, outcome, decision.delay, slot)

    async def _ask(self, work: Work, recorder: ItemRecorder, slot: Slot) -> Success | Failure:
        # Who has a permit has a slot: the other way round, two could wait for each other.
        await slot.take()
        try:
            await self._patiently(lambda: self.nouns.router.admit(work, work.place))
            outcome = await self.attempting.attempt(work, recorder)
            assert not isinstance(outcome, Waiting)  # an item is a part of a run, which waits for it
        except BaseException:
            work.usage = recorder.usage
            raise
        else:
            work.usage = recorder.usage
            # Before its end is written: others may have its place meanwhile.
            await self.nouns.router.leave(work, outcome)
            return outcome
        finally:
            slot.leave()

    async def _patiently(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        """Ask for what the database is needed for; one that is away is waited for, as long as the writer does."""
        until = self.nouns.clock.now() + _PATIENCE
        while True:
            try:
                return await ask()
            except StorageError:
                if self.nouns.clock.now() >= until:
                    raise
                await self.nouns.clock.sleep(1.0)

    async def _until_retry(self, work: Work, fed: Fed, spent: _Spent, failure: Failure, delay: float, slot: Slot) -> None:
        try:
            await self.writer.put()
            await self.nouns.clock.sleep(delay)
            slot.come()
            work.tries += 1
            work.place = await self._patiently(lambda: self.nouns.router.place(work))
            at, place = self.nouns.clock.now(), work.place
            self.writer.group.started.append(BegunAttempt(work.stored.id, work.attempt, place.agent.name, place.node.name, at))
            await self.writer.put()
        except asyncio.CancelledError:
            self._put_end(work, fed, spent, _CANCELLED, Status.CANCELLED)
            self.writer.hand_in()
            raise

    async def _refuse(self, work: Work, fed: Fed, spent: _Spent, failure: Failure) -> None:
        """End an item that no agent is asked about."""
        self._put_begun(work, fed, (), is_asked=False)
        self._put_end(work, fed, spent, failure, Status.FAILED)
        await self.writer.put()

    def _work(self, fed: Fed, execution_id: str) -> Work:
        now = self.nouns.clock.now()
        standing, batch = fed.standing, self.of
        trace_id = (standing and standing.trace_id) or new_trace_id()
        deadline_at = now + round(self.spec.timeout.total * 1_000_000)
        asked = batch.base.model_copy(update={"item": fed.key, "item_value": fed.item.value, "deadline_at": deadline_at})
        about: dict[str, Any] = {
            "id": execution_id,
            "idempotency_key": asked.idempotency_key,
            "item": fed.key,
            "batch_id": batch.batch_id,
            "shard": batch.shard,
            "position": fed.item.position,
            "invocation": asked,
            "run_id": batch.run.run_id,
            "job": batch.run.job,
            "step": batch.run.step,
            "partition": batch.run.partition,
            "status": Status.RUNNING,
            "attempts": 0 if standing is None else standing.attempts,
            "created_at": now,
            "trace_id": trace_id,
        }
        stored = StoredExecution.model_construct(**{**self._like, **about})
        agent, node = self._destination(fed)
        return Work(self.spec, agent, batch.run, self.checks, Trace(trace_id), stored, asked, now, only_node=node)

    def _destination(self, fed: Fed) -> tuple[Agent, str | None]:
        """The agent of an item, and the node if only one is meant."""
        value = fed.item.value
        if self.spec.batch is None or self.spec.batch.form != "broadcast" or not isinstance(value, dict):
            return self.agent, None
        return self.agents[str(value["agent"])], str(value["node"])

    def _recorder(self, work: Work) -> ItemRecorder:
        return ItemRecorder(
            self.nouns.database,
            self.nouns.ledger.journal,
            self.nouns.clock,
            work.trace,
            work.stored.id,
            work.attempt,
            new_span_id(),
            work.journal_seq,
            writer=self.writer,
        )

    def _put_begun(self, work: Work, fed: Fed, trimmed: Sequence[str], *, is_asked: bool) -> None:
        stored = work.stored
        agent = work.place.agent.name if is_asked else work.agent.name
        group = self.writer.group
        begun = BegunItem(
            stored.id,
            fed.key,
            fed.item.position,
            stored.idempotency_key,
            work.trace.trace_id,
            self._recorded(work.invocation),
            trimmed,
            work.attempt if is_asked else stored.attempts,
            agent,
            work.place.node.name if is_asked else "",
            self.nouns.clock.now(),
            is_asked,
        )
        (group.admitted if fed.standing is None else group.resumed).append(begun)

    def _recorded(self, invocation: Invocation) -> dict[str, JsonValue]:
        return {
            **self._common,
            "item": invocation.item,
            "item_value": recordable(invocation.item_value),
            "messages": [{"role": each.role, "content": recordable(each.content)} for each in invocation.messages],
            "deadline_at": invocation.deadline_at,
        }

    def _put_attempt(
        self,
        work: Work,
        recorder: ItemRecorder,
        spent: _Spent,
        started_at: Microseconds,
        status: Any,
        outcome: Success | Failure | None,
        decision: Decision | None,
    ) -> None:
        now = self.nouns.clock.now()
        usage = price(recorder.usage, recorder.model)
        spent.add(usage)
        failure = outcome if isinstance(outcome, Failure) else None
        error = "cancelled" if status == "cancelled" else None if failure is None else str(failure.error_class)
        add_attempt(work, recorder, usage, started_at, now, error)
        group = self.writer.group
        group.entries.extend((work.stored.id, entry) for entry in recorder.held)
        group.ended_attempts.append(
            EndedAttempt(
                work.stored.id,
                recorder.attempt,
                status,
                now,
                usage,
                recorder.model,
                recorder.handle,
                None if failure is None else failure.error,
                None if failure is None else failure.status,
                None if decision is None else decision.reason,
                None if decision is None else decision.delay,
                recorder.final.tries if recorder.final is not None else None if failure is None else failure.tries,
            )
        )

    def _put_end(self, work: Work, fed: Fed, spent: _Spent, outcome: Success | Failure, status: Status) -> None:
        now, stored = self.nouns.clock.now(), work.stored
        group = self.writer.group
        checks = [check.model_dump(mode="json") for check in outcome.checks]
        if isinstance(outcome, Success):
            text, output = outcome.final.text, recordable(outcome.output)
            group.ended.append(EndedItem(stored.id, status, now, spent.total(), outcome.model, text, output, checks))
            if fed.content_hash is not None:
                group.versions.append((fed.key, fed.content_hash, stored.id))
        else:
            group.ended.append(EndedItem(stored.id, status, now, spent.total(), checks=checks, error=outcome.error))
        work.trace.add(
            f"execute {stored.path}",
            work.started_at,
            now,
            span_id=work.trace.root_id,
            error=None if isinstance(outcome, Success) else str(outcome.error_class),
            attributes={
                "agent_pipelines.execution_id": stored.id,
                "agent_pipelines.task": stored.path,
                "agent_pipelines.workspace": stored.workspace,
                "agent_pipelines.run_id": stored.run_id,
                "agent_pipelines.origin": str(stored.origin),
                "agent_pipelines.prompt_version": self.of.base.prompt_version,
            },
        )
        group.spans.extend((stored.id, span) for span in work.trace.spans)


_CANCELLED = Failure(ErrorClass.CANCELLED, Stage.INVOKE, "cancelled on request")
