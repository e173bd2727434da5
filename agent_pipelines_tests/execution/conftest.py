from collections.abc import Callable
from typing import Any

import pytest

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.execution import ExecutionResult, RunRef
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines_tests.execution.scripted import agent

Execute = Callable[..., ExecutionResult]


def spec(**changes: Any) -> TaskSpec:
    return TaskSpec.model_validate({"name": "job", "application": "app", "intent": "Work", "agent": "worker", **changes})


def invocation(**changes: Any) -> Invocation:
    values = {
        "application": "app",
        "task": "job",
        "spec_hash": "",
        "trigger": "on_demand",
        "origin": Origin.ON_DEMAND,
        "occurrence": new_id(),
        "due_at": 1_767_225_600_000_000,
        "logical_at": 1_767_225_600_000_000,
    }
    return Invocation.model_validate({**values, **changes})


@pytest.fixture
def hub(database: Database, clock: ManualClock) -> Hub:
    return Hub(database, clock)


@pytest.fixture
def execute(hub: Hub) -> Execute:
    """Execute a task on runtimes; `spec`, `invocation` and `run` can be given."""

    def run(*runtimes: Any, **given: Any) -> ExecutionResult:
        task = given.pop("spec", None) or spec()
        request = given.pop("invocation", None) or invocation()
        run = given.pop("run", None) or RunRef(run_id=new_id())
        return hub.runner.execute(request, task, agent(*runtimes), run=run, **given)

    return run
