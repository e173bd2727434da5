"""One attempt: asking the agent once, and judging what it gives back."""

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from agent_pipelines.core.acting import Acting
from agent_pipelines.core.clock import Clock
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure, Stage, StorageError
from agent_pipelines.core.event import Checkpoint
from agent_pipelines.execution.arrived import Arrived, wait_here
from agent_pipelines.execution.checks import run_checks
from agent_pipelines.execution.effects import Effects, acting_with, human_task_of
from agent_pipelines.execution.flow import FlowControl
from agent_pipelines.execution.output import read_output
from agent_pipelines.execution.recorder import Recorder
from agent_pipelines.execution.work import Failure, Success, Waiting, Work
from agent_pipelines.runtimes.base import Runtime

_BROKEN_OFF = frozenset({ErrorClass.UNKNOWN_OUTCOME, ErrorClass.CONNECTION, ErrorClass.OVERLOADED, ErrorClass.RATE_LIMIT})
_CANCEL = 10.0  # seconds that a cancel call may take


@dataclass(frozen=True)
class Attempting:
    """Asks the agent once, within the limits of time of the task."""

    clock: Clock
    database_url: str
    effects_of: Callable[[Acting], Effects]
    flow: FlowControl

    async def attempt(self, work: Work, recorder: Recorder) -> Success | Failure | Waiting:
        """Ask the agent at the work's place; what it does goes to the recorder.

        An attempt that has waited goes on with what has arrived.
        """
        if work.arrived is not None and work.attempt == work.arrived.attempt:
            return await self._go_on(work, recorder, Arrived.model_validate(work.arrived.outcome))
        await self.flow.confirm_for(work)
        limit = min(work.spec.timeout.attempt, work.remaining(self.clock.now()))
        given = work.invocation.model_copy(update={"callback": work.callback})
        try:
            with acting_with(self.effects_of(self._whom(work))):
                async with asyncio.timeout(limit) as timer, aclosing(work.place.node.runtime.stream(given)) as stream:
                    async for event in stream:
                        await recorder.record(event)
                        if isinstance(event, Checkpoint):
                            await self._let_go_first(work, timer)
        except TimeoutError:
            await recorder.finish()
            which = "an attempt" if limit == work.spec.timeout.attempt else "all attempts together"
            return Failure(ErrorClass.TIMEOUT, Stage.INVOKE, f"ended after {limit:.3g} s, the limit of {which}")
        except RuntimeFailure as failure:
            await recorder.finish()
            if work.can_wait and (human_task_id := human_task_of(failure)) is not None:
                return Waiting(human_task_id=human_task_id)
            # The stream has ended and not the work: what became of it can be asked for.
            if recorder.poll_after is None or failure.error_class not in _BROKEN_OFF:
                why = (failure.error_class, Stage.INVOKE, failure.message, failure.status, failure.retry_after)
                return Failure(*why, failure.tries)
        except StorageError:
            raise
        except Exception as error:  # a fault of the adapter must not take the record with it
            await recorder.finish()
            return Failure(ErrorClass.INTERNAL, Stage.INVOKE, f"{type(error).__name__}: {error}")
        await recorder.finish()
        if recorder.question is None and (recorder.final is not None or recorder.poll_after is None):
            return await self._judge(work, recorder)
        if work.can_wait:
            return Waiting(recorder.question)
        return await self._wait_here(work, recorder)

    async def _go_on(self, work: Work, recorder: Recorder, arrived: Arrived) -> Success | Failure:
        try:
            async with aclosing(arrived.stream()) as stream:
                async for event in stream:
                    await recorder.record(event)
        except RuntimeFailure as failure:
            await recorder.finish()
            why = (failure.error_class, Stage.INVOKE, failure.message, failure.status, failure.retry_after)
            return Failure(*why, may_repeat=arrived.is_known)
        await recorder.finish()
        return await self._judge(work, recorder)

    def _whom(self, work: Work) -> Acting:
        return Acting(
            workspace=work.spec.workspace,
            application=work.spec.application,
            task=work.spec.name,
            scope=work.invocation.idempotency_key,
            run_id=work.run.run_id,
            execution_id=work.stored.id,
            database_url=SecretStr(self.database_url),
        )

    async def _let_go_first(self, work: Work, timer: asyncio.Timeout) -> None:
        """Where work can stop, whatever is more urgent goes first; the agent is not asked for more meanwhile."""
        ends_at = timer.when()
        timer.reschedule(None)
        waited = await self.flow.yield_at(work)
        timer.reschedule(None if ends_at is None else ends_at + waited)

    async def _wait_here(self, work: Work, recorder: Recorder) -> Success | Failure:
        """Hold the process until the work has ended: no other run could go on with this execution."""
        if recorder.question is not None or recorder.handle is None or recorder.poll_after is None:
            words = "asked people a question, which only the run of a whole task can do, not one that works on a part"
            return Failure(ErrorClass.INVALID_REQUEST, Stage.INVOKE, words)
        runtime, handle = work.place.node.runtime, recorder.handle
        limit = work.remaining(self.clock.now())
        try:
            async with asyncio.timeout(limit):
                arrived = await wait_here(runtime, handle, recorder.poll_after, self.clock)
        except (TimeoutError, asyncio.CancelledError) as ending:
            await _cancel(runtime, handle)
            if isinstance(ending, asyncio.CancelledError):
                raise
            return Failure(ErrorClass.TIMEOUT, Stage.INVOKE, f"ended after {limit:.3g} s, the limit of all attempts together")
        return await self._go_on(work, recorder, arrived)

    async def _judge(self, work: Work, recorder: Recorder) -> Success | Failure:
        if recorder.final is None:
            return Failure(ErrorClass.PROTOCOL, Stage.INVOKE, "the runtime's stream ended without a final answer")
        try:
            output = read_output(work.spec.output, recorder.final)
        except RuntimeFailure as failure:
            return Failure(failure.error_class, Stage.SETTLE, failure.message)
        judged = output if work.spec.output.is_json else recorder.final.text
        checks = await run_checks(work.checks, judged, work.invocation)
        failed = [check for check in checks if check.blocking and not check.passed]
        if failed:
            words = "; ".join(f"{check.name}: {check.message or 'not passed'}" for check in failed)
            return Failure(ErrorClass.CHECK, Stage.SETTLE, f"checks failed: {words}", checks=checks)
        return Success(recorder.final, output, checks, recorder.model)


async def _cancel(runtime: Runtime[Any], handle: str) -> None:
    with contextlib.suppress(RuntimeFailure, TimeoutError):
        async with asyncio.timeout(_CANCEL):
            await runtime.cancel(handle)
