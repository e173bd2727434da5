"""What is better than a failure, as the task declares it."""

from dataclasses import dataclass

from pydantic import JsonValue

from agent_pipelines.core.clock import Clock, isoformat
from agent_pipelines.core.errors import RuntimeFailure
from agent_pipelines.core.event import Final
from agent_pipelines.core.execution import Degraded, ExecutionResult
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.task import DegradeSpec
from agent_pipelines.engine.demand import TRIGGER
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.execution.checks import run_checks
from agent_pipelines.execution.output import read_output
from agent_pipelines.execution.retry import may_be_at_work
from agent_pipelines.execution.settle import Settler
from agent_pipelines.execution.work import Failure, Work
from agent_pipelines.governance.human_tasks import HumanTasks
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.ledger.recordable import recordable
from agent_pipelines.store.database import Connection, Database, Operation

_SHOWN = 2_000  # characters of what was said that people are shown


@dataclass(frozen=True)
class Degrading:
    """Ends an execution that would fail: by the first entry of `degrade` that can be done, else as a failure."""

    database: Database
    clock: Clock
    ledger: Ledger
    ticks: Ticks
    human_tasks: HumanTasks
    settler: Settler

    async def fail(self, work: Work, failure: Failure, last_attempt: Operation[None] | None = None) -> ExecutionResult:
        """Close an execution that has no result of its own."""
        for step in work.spec.degrade:
            if failure.error_class not in step.errors:
                continue
            result = await self._degrade(work, failure, step, last_attempt)
            if result is not None:
                return result
        return await self.settler.fail(work, failure, last_attempt)

    async def _degrade(
        self, work: Work, failure: Failure, step: DegradeSpec, last_attempt: Operation[None] | None
    ) -> ExecutionResult | None:
        match step.to:
            case "cached":
                return await self._newest(work, failure, step.max_age or 0, last_attempt)
            case "partial":
                return await self._partial(work, failure, last_attempt)
            case "human":
                return await self.settler.fail(work, failure, last_attempt, lambda c: self._ask(c, work, failure))
            case "task":
                cancels = work.agent.capabilities.cancels
                if may_be_at_work(work.spec.retry, failure.error_class, cancels=cancels) or await self._may_have_acted(work):
                    return None
                path = work.spec.resolve(step.task or "")
                return await self.settler.fail(work, failure, last_attempt, lambda c: self._request(c, work, path))

    async def _may_have_acted(self, work: Work) -> bool:
        """Whether an effect of it may have happened that nobody knows of, so that another task could repeat it."""
        if work.spec.retry.idempotent:
            return False
        return await self.database.read(lambda c: self.ledger.effects.is_open(c, work.stored.id))

    async def _newest(
        self, work: Work, failure: Failure, max_age: float, last_attempt: Operation[None] | None
    ) -> ExecutionResult | None:
        since = self.clock.now() - round(max_age * 1_000_000)
        found = await self.database.read(lambda c: self.ledger.executions.fresh_success(c, work.spec.key, finished_from=since))
        if found is None:
            return None
        age = isoformat(found.finished_at or found.created_at)
        return await self.settler.substitute(
            work,
            Degraded.STALE,
            f"stale, the result of {age}: {_words(failure)}",
            last_attempt,
            text=found.text or "",
            output=found.output,
            checks=found.checks or (),
            model=found.model,
            stale_from=found.id,
        )

    async def _partial(self, work: Work, failure: Failure, last_attempt: Operation[None] | None) -> ExecutionResult | None:
        """What was said so far, if it is a result: one that the schema and the blocking checks accept."""
        said = await self.database.read(lambda c: self.ledger.journal.said(c, work.stored.id))
        if not said.strip():
            return None
        try:
            output = read_output(work.spec.output, Final(text=said))
        except RuntimeFailure:
            return None
        checks = await run_checks(work.checks, output if work.spec.output.is_json else said, work.invocation)
        if any(check.blocking and not check.passed for check in checks):
            return None
        reason = f"partial, what was said until it failed: {_words(failure)}"
        return await self.settler.substitute(
            work, Degraded.PARTIAL, reason, last_attempt, text=said, output=output, checks=checks
        )

    def _ask(self, connection: Connection, work: Work, failure: Failure) -> tuple[Degraded, str]:
        context: dict[str, JsonValue] = {
            "error_class": str(failure.error_class),
            "error": failure.message,
            "variables": work.invocation.variables,
            "said": self.ledger.journal.said(connection, work.stored.id)[:_SHOWN],
        }
        asked = self.human_tasks.open(
            connection,
            work.spec.key,
            subject="degraded",
            subject_id=work.stored.id,
            question=f"{work.spec.path} has no result ({_words(failure)}). {work.spec.intent}: what is the result?",
            context=context,
            execution_id=work.stored.id,
            opened_by=f"task:{work.spec.path}",
        )
        return Degraded.HUMAN, f"human task {asked.id} asks for the result"

    def _request(self, connection: Connection, work: Work, path: str) -> tuple[Degraded, str]:
        """Request another task, once for the execution; the daemon launches it."""
        application, _, name = path.partition("/")
        tick, _ = self.ticks.claim(
            connection,
            (work.spec.workspace, application, name),
            TRIGGER,
            work.stored.id,
            origin=Origin.ON_DEMAND,
            due_at=self.clock.now(),
            logical_at=work.invocation.logical_at,
            actor=f"task:{work.spec.path}",
            inputs={"variables": recordable(work.invocation.variables), "degraded_execution": work.stored.id},
        )
        return Degraded.TASK, f"task {path} was requested instead, tick {tick.id}"


def _words(failure: Failure) -> str:
    return f"{failure.error_class}: {failure.message}"
