"""The user's own tests of a result, and the gate in front of an execution."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from agent_pipelines.core.execution import CheckResult
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.execution.function import load_function
from agent_pipelines.ledger.recordable import recordable_text


@dataclass(frozen=True)
class Check:
    """A declared check with its function."""

    name: str
    blocking: bool
    function: Callable[[JsonValue, Invocation], object]

    def run(self, output: JsonValue, invocation: Invocation) -> CheckResult:
        """Test a result; a check that raises has failed, and says with what. Its words are without secrets."""
        result = self._ask(output, invocation)
        message = None if result.message is None else recordable_text(result.message)
        return result.model_copy(update={"message": message})

    def _ask(self, output: JsonValue, invocation: Invocation) -> CheckResult:
        try:
            found = self.function(output, invocation)
        except Exception as error:
            return CheckResult(name=self.name, passed=False, blocking=self.blocking, message=f"{type(error).__name__}: {error}")
        match found:
            case CheckResult():
                return found.model_copy(update={"name": self.name, "blocking": self.blocking})
            case None | True:
                return CheckResult(name=self.name, passed=True, blocking=self.blocking)
            case False:
                return CheckResult(name=self.name, passed=False, blocking=self.blocking)
            case str():
                return CheckResult(name=self.name, passed=False, blocking=self.blocking, message=found)
            case _:
                message = f"returned {type(found).__name__}; a check returns a bool, a text, None or a CheckResult"
                return CheckResult(name=self.name, passed=False, blocking=self.blocking, message=message)


Gate = Callable[[Invocation], object]
"""Called before any agent: a returned text is the reason to skip the execution."""


def load_checks(spec: TaskSpec) -> tuple[Check, ...]:
    """Import the checks of a task. Raises DefinitionError naming the one that cannot be imported."""
    return tuple(
        Check(check.name, check.blocking, load_function(check.python, f"checks[{index}].python"))
        for index, check in enumerate(spec.checks)
    )


def load_gate(spec: TaskSpec) -> Gate | None:
    """Import the gate of a task. Raises DefinitionError if it cannot be imported."""
    return None if spec.gate is None else load_function(spec.gate, "gate")


async def run_checks(checks: Sequence[Check], output: JsonValue, invocation: Invocation) -> tuple[CheckResult, ...]:
    """Run checks one after the other, outside the event loop."""
    return tuple([await asyncio.to_thread(check.run, output, invocation) for check in checks])
