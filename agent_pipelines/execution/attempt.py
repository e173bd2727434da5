"""One attempt: asking the agent once, and judging what it gives back."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from pydantic import SecretStr

from agent_pipelines.core.acting import Acting
from agent_pipelines.core.clock import Clock
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure, Stage, StorageError
from agent_pipelines.execution.checks import run_checks
from agent_pipelines.execution.effects import Effects, acting_with
from agent_pipelines.execution.output import read_output
from agent_pipelines.execution.recorder import Recorder
from agent_pipelines.execution.work import Failure, Success, Work


@dataclass(frozen=True)
class Attempting:
    """Asks the agent once, within the limits of time of the task."""

    clock: Clock
    database_url: str
    effects_of: Callable[[Acting], Effects]

    async def attempt(self, work: Work, recorder: Recorder) -> Success | Failure:
        """Ask the agent at the work's place; what it does goes to the recorder."""
        limit = min(work.spec.timeout.attempt, work.remaining(self.clock.now()))
        try:
            with acting_with(self.effects_of(self._whom(work))):
                async with asyncio.timeout(limit), aclosing(work.place.node.runtime.stream(work.invocation)) as stream:
                    async for event in stream:
                        await recorder.record(event)
        except TimeoutError:
            await recorder.finish()
            which = "an attempt" if limit == work.spec.timeout.attempt else "all attempts together"
            return Failure(ErrorClass.TIMEOUT, Stage.INVOKE, f"ended after {limit:.3g} s, the limit of {which}")
        except RuntimeFailure as failure:
            await recorder.finish()
            return Failure(failure.error_class, Stage.INVOKE, failure.message, failure.status, failure.retry_after, failure.tries)
        except StorageError:
            raise
        except Exception as error:  # a fault of the adapter must not take the record with it
            await recorder.finish()
            return Failure(ErrorClass.INTERNAL, Stage.INVOKE, f"{type(error).__name__}: {error}")
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
