from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.declared import Declared
from agent_pipelines.engine.health import Health
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines.web.api import build_api
from agent_pipelines.web.token import ApiToken
from agent_pipelines_tests.insight.filled import Filled
from agent_pipelines_tests.registry.conftest import DECLARED

WELL = Health(at=0, home="/its/home", problems=())
TOKEN = "a-token-for-tests-only-0123456789abcdef"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def hub(database: Database, clock: ManualClock) -> Hub:
    return Hub(database, clock)


@pytest.fixture
def filled(database: Database, clock: ManualClock) -> Filled:
    """A record without anything in it yet, once on each kind of database."""
    return Filled(database, clock)


def client_of(hub: Hub, declared: Callable[[], Declared] = lambda: DECLARED) -> TestClient:
    return TestClient(build_api(hub, ApiToken(TOKEN), declared, lambda: WELL), headers=BEARER)


@pytest.fixture
def client(hub: Hub) -> Iterator[TestClient]:
    """Somebody who has the token."""
    with client_of(hub) as client:
        yield client


def task(name: str = "watch", **fields: Any) -> dict[str, Any]:
    """A specification as it is sent."""
    given = {"name": name, "application": "inbox", "intent": "Watch it", "agent": "writer", "prompt": "Watch it"}
    return {**given, "triggers": [{"kind": "interval", "every": "30s"}], **fields}
