from typing import Any

import pytest

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.declared import Declared
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database

DECLARED = Declared(
    workspaces=("default", "lab"),
    agents=("inspector", "writer"),
    references=("acme.checks:adds_up", "acme.gates:is_open"),
    tasks=(("default", "reports", "digest"),),
    assets=("sales/orders",),
)


def spec(name: str = "watch", **fields: Any) -> TaskSpec:
    """A specification that may be registered."""
    given = {"name": name, "application": "inbox", "intent": "Watch it", "agent": "writer", "prompt": "Watch {{ logical_time }}"}
    return TaskSpec.model_validate({**given, **fields})


def every_minute(**fields: Any) -> dict[str, Any]:
    return {"kind": "interval", "every": "1m", **fields}


@pytest.fixture
def hub(database: Database, clock: ManualClock) -> Hub:
    return Hub(database, clock)
