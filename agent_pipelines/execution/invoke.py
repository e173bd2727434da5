"""The third stage: attempts, until one succeeds or no further one is due."""

import asyncio
import secrets
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import JsonValue, SecretStr

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.event import Handle, Question
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Callback
from agent_pipelines.execution.arrived import answers_to
from agent_pipelines.execution.attempt import Attempting
from agent_pipelines.execution.attempt_span import add_attempt
from agent_pipelines.execution.compose import Composing
from agent_pipelines.execution.pricing import price
from agent_pipelines.execution.recorder import Recorder
from agent_pipelines.execution.retry import Decision, decide_for
from agent_pipelines.execution.route import Router
from agent_pipelines.execution.work import Failure, Success, Waiting, Work
from agent_pipelines.governance.human_tasks import HumanTasks
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.ledger.recordable import recordable
from agent_pipelines.ledger.spans import new_span_id
from agent_pipelines.store.database import Connection, Database, Operation

Ended = Operation[None]
"""Records how an attempt ended; the last one's is written together with the end of the execution."""


@dataclass(frozen=True)
class Invoker:
    """Asks the agent, with the retries and limits of the task."""

    database: Database
    clock: Clock
    ledger: Ledger
    router: Router
    attempting: Attempting
    human_tasks: HumanTasks
    composing: Composing

    async def invoke(self, work: Work) -> tuple[Success | Failure | Waiting, Ended]:
        """Try until there is an outcome; the first attempt is recorded already.

        The caller writes the returned record of the last attempt. If it is cancelled, `work.interrupted` is that record.
        """
        while True:
            started_at = max(self.clock.now(), work.begins_at)
            if work.arrived is not None and work.attempt == work.arrived.attempt:
                started_at = work.arrived.began_at
            work.callback = _callback() if work.place.node.runtime.capabilities.hands_over else None
            recorder = self._recorder(work, started_at)
            try:
                await self.until(work.begins_at)
                outcome = await self.attempting.attempt(work, recorder)
            except asyncio.CancelledError:
                work.usage = recorder.usage
                work.has_wait |= recorder.poll_after is not None
                work.interrupted = self._cancelled(work, recorder, started_at)
                raise
            work.journal_seq = recorder.seq
            work.usage = recorder.usage
            work.has_wait |= recorder.poll_after is not None
            if isinstance(outcome, Success):
                return outcome, self._ended(work, recorder, started_at, "succeeded", None, None)
            if isinstance(outcome, Waiting):
                return outcome, self._waits(work, recorder, started_at, outcome)
            decision = decide_for(work, outcome, self.clock.now())
            work.inner_tries += outcome.tries - 1
            place = await self._fallback(work, outcome, decision)
            if place is not None:
                decision = replace(decision, reason=f"{decision.reason}; fallback {place} is asked")
            ended = self._ended(work, recorder, started_at, "failed", outcome, decision)
            if decision.delay is None and place is None:
                return outcome, ended
            await self.database.write(ended)
            await self.router.leave(work, outcome)
            if place is not None:
                unfit = await self._switch(work, place, outcome)
                if unfit is not None:
                    return unfit, _written
                continue
            assert decision.delay is not None
            await self.clock.sleep(decision.delay)
            work.tries += 1
            if recorder.checkpoint is not None:
                work.invocation = work.invocation.model_copy(update={"checkpoint": recorder.checkpoint})
            work.place = await self.router.choose(work)
            await self.database.write(lambda connection: self._start(connection, work))

    async def _fallback(self, work: Work, failure: Failure, decision: Decision) -> int | None:
        if decision.delay is not None or not decision.may_move or work.remaining(self.clock.now()) <= 0:
            return None
        place = work.following(failure.error_class)
        if place is not None and not work.spec.retry.idempotent:
            is_open = await self.database.read(lambda c: self.ledger.effects.is_open(c, work.stored.id))
            return None if is_open else place
        return place

    async def _switch(self, work: Work, place: int, failure: Failure) -> Failure | None:
        """Ask a fallback from now on; what it is given is put together anew. Returns why that cannot be done, if it cannot."""
        before, now = work.agent.name, self.clock.now()
        chosen = work.move_on(place)
        words: dict[str, JsonValue] = {
            "fallback": place,
            "from": before,
            "to": work.agent.name,
            "parameters": recordable(dict(chosen.parameters)),
            "error_class": str(failure.error_class),
        }
        await self.database.write(lambda c: self.ledger.journal.note(c, work.stored.id, at=now, kind="switched", body=words))
        work.journal_seq += 1
        attributes: dict[str, JsonValue] = {f"agent_pipelines.{name}": words[name] for name in ("fallback", "from", "to")}
        work.trace.add("switch", now, self.clock.now(), attributes=attributes)
        work.place = await self.router.choose(work)
        return await self.composing.compose(work)

    def _cancelled(self, work: Work, recorder: Recorder, started_at: Microseconds) -> Ended:
        ended = self._ended(work, recorder, started_at, "cancelled", None, None)
        place, now = work.place, self.clock.now()
        body: dict[str, JsonValue] = {
            "agent": place.agent.name,
            "node": place.node.name,
            "handle": recorder.handle,
            "done": place.node.runtime.stops_by,
            "ends_the_work": place.agent.capabilities.cancels,
        }

        def record(connection: Connection) -> None:
            ended(connection)
            self.ledger.journal.note(connection, work.stored.id, at=now, kind="cancelled", body=body)

        return record

    async def until(self, instant: Microseconds) -> None:
        """Wait for an instant."""
        ahead = instant - self.clock.now()
        if ahead > 0:
            await self.clock.sleep(ahead / 1_000_000)

    def _recorder(self, work: Work, started_at: Microseconds) -> Recorder:
        def keep(connection: Connection, handle: Handle) -> None:
            callback = work.callback
            self.ledger.executions.waits.hold(
                connection,
                new_id() if callback is None else callback.wait_id,
                work.stored.id,
                work.attempt,
                tries=work.tries,
                agent=work.place.agent.name,
                node=work.place.node.name,
                handle=handle.id,
                began_at=started_at,
                deadline_at=self._deadline(work),
                poll_after=handle.poll_after or 0.0,
                token=None if callback is None else callback.token.get_secret_value(),
            )

        recorder = Recorder(
            self.database,
            self.ledger.journal,
            self.clock,
            work.trace,
            work.stored.id,
            work.attempt,
            new_span_id(),
            work.journal_seq,
            on_handle=keep if work.can_wait else None,
        )
        if work.arrived is not None and work.attempt == work.arrived.attempt:
            recorder.usage, recorder.model, recorder.handle = work.arrived.spent, work.arrived.model, work.arrived.handle
        return recorder

    def _waits(self, work: Work, recorder: Recorder, started_at: Microseconds, waiting: Waiting) -> Ended:
        """Records what the attempt waits for, together with the execution that waits."""
        waits, question = self.ledger.executions.waits, waiting.question
        wait_id = new_id()

        def record(connection: Connection) -> None:
            human_task_id = waiting.human_task_id
            if question is not None:
                human_task_id = self._ask(connection, work, question)
            if human_task_id is None:
                waits.let_go(connection, work.stored.id, spent=recorder.usage, model=recorder.model)
                return
            waits.settle(connection, work.stored.id)
            waits.ask(
                connection,
                wait_id,
                work.stored.id,
                work.attempt,
                tries=work.tries,
                agent=work.place.agent.name,
                node=work.place.node.name,
                human_task_id=human_task_id,
                began_at=started_at,
                deadline_at=self._deadline(work),
                draft=None if question is None else question.draft,
                spent=recorder.usage,
                model=recorder.model,
            )

        return record

    def _ask(self, connection: Connection, work: Work, question: Question) -> str:
        return self.human_tasks.open(
            connection,
            work.stored.task_key,
            subject="question" if question.draft is None else "approval",
            subject_id=f"{work.stored.id}:{work.attempt}",
            question=question.text,
            options=answers_to(question.options, question.draft),
            context=question.context if question.draft is None else {**question.context, "draft": question.draft},
            execution_id=work.stored.id,
            opened_by=f"agent:{work.place.agent.name}",
        ).id

    def _deadline(self, work: Work) -> Microseconds:
        now = self.clock.now()
        return now + round(work.remaining(now) * 1_000_000)

    def _start(self, connection: Connection, work: Work) -> None:
        self.ledger.executions.start_attempt(
            connection,
            work.stored.id,
            work.attempt,
            run_id=work.run.run_id,
            agent=work.place.agent.name,
            node=work.place.node.name,
        )

    def _ended(
        self,
        work: Work,
        recorder: Recorder,
        started_at: Microseconds,
        status: Literal["succeeded", "failed", "cancelled"],
        failure: Failure | None,
        decision: Decision | None,
    ) -> Ended:
        usage = price(recorder.usage, recorder.model)
        tries = recorder.final.tries if recorder.final is not None else None if failure is None else failure.tries
        error = "cancelled" if status == "cancelled" else None if failure is None else str(failure.error_class)
        add_attempt(work, recorder, usage, started_at, self.clock.now(), error)

        has_wait = work.has_wait

        def record(connection: Connection) -> None:
            if has_wait:
                self.ledger.executions.waits.settle(connection, work.stored.id, run_id=work.run.run_id)
            self.ledger.executions.attempts.finish(
                connection,
                work.stored.id,
                recorder.attempt,
                status,
                usage=usage,
                model=recorder.model,
                handle=recorder.handle,
                error=None if failure is None else failure.error,
                error_status=None if failure is None else failure.status,
                retry_decision=None if decision is None else decision.reason,
                retry_delay=None if decision is None else decision.delay,
                runtime_tries=tries,
            )

        return record


def _callback() -> Callback:
    token = f"apcb-{secrets.token_urlsafe(32)}"  # a shape that every process knows as a secret
    wait_id = new_id()
    return Callback(wait_id=wait_id, path=f"/api/v1/waits/{wait_id}/callback", token=SecretStr(token))


def _written(connection: Connection) -> None:
    """For an attempt whose end is recorded already."""
