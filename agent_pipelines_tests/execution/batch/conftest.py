from pathlib import Path

import pytest

from agent_pipelines.hub import Hub
from agent_pipelines_tests.execution.batch.batching import Batching


@pytest.fixture
def batching(hub: Hub, tmp_path: Path) -> Batching:
    return Batching(hub, tmp_path)
