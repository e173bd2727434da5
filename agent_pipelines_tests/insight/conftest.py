import pytest

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.store.database import Database
from agent_pipelines_tests.insight.filled import Filled


@pytest.fixture
def filled(database: Database, clock: ManualClock) -> Filled:
    """A record without anything in it yet, once on each kind of database."""
    return Filled(database, clock)
